package server

import "time"

const (
	// DefaultMaxBody is how large a body may be: a notification has a few
	// kilobytes. `server.maxBody` raises it for batches of Event Grid.
	DefaultMaxBody = 1 << 20

	// maxHeader bounds the request line and headers together.
	maxHeader = 64 << 10

	// headerTimeout, readTimeout and writeTimeout end requests that come or
	// are read too slowly. Senders give up after 1 to 30 seconds.
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second

	// idleTimeout ends connections that nobody uses.
	idleTimeout = 2 * time.Minute

	// acceptTimeout is how long a delivery may wait for the store before the
	// sender is told to come back.
	acceptTimeout = 10 * time.Second

	// mostReading is how many deliveries are received at once: each may hold a
	// body in memory before it is known who sent it.
	mostReading = 256

	// retryAfter is when that is, in seconds.
	retryAfter = "5"

	// refusedRate is how many lines a second the log has of what is refused for
	// one cause, refusedBurst how many at once, sumEvery how often it says how
	// many more there were.
	refusedRate  = 1
	refusedBurst = 20
	sumEvery     = 10 * time.Second

	// shutdownTimeout is how long requests in the middle may take when the
	// program stops.
	shutdownTimeout = 5 * time.Second

	// collectTimeout is how long the metrics wait for the store; without it
	// they are given without what it knows.
	collectTimeout = 3 * time.Second

	// mostWatching is how many may watch at once: each keeps a connection.
	mostWatching = 64

	// lookEvery is how often those who watch see what has changed, gather how
	// long what an action writes is collected to be sent in one piece.
	lookEvery = 500 * time.Millisecond
	gather    = 50 * time.Millisecond

	// heartbeat is how often they hear that nothing has, and sendTimeout how
	// long they may take to read what they are sent before they are cut off. It
	// is shorter than shutdownTimeout: nobody who sleeps delays a stop.
	heartbeat   = 15 * time.Second
	sendTimeout = 3 * time.Second

	// mostRecent is how many changes are kept for those who are slow or come
	// back, newPage how many new runs are read at once.
	mostRecent = 500
	newPage    = 100

	// defaultPage and maxPage bound a list of the API.
	defaultPage = 50
	maxPage     = 1000

	// maxChange bounds the body of a request to change something, mostName and
	// mostReason what is kept of it, in bytes.
	maxChange  = 8 << 10
	mostName   = 100
	mostReason = 1000
)
