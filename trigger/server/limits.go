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

	// shutdownTimeout is how long requests in the middle may take when the
	// program stops.
	shutdownTimeout = 5 * time.Second

	// collectTimeout is how long the metrics wait for the store; without it
	// they are given without what it knows.
	collectTimeout = 3 * time.Second

	// defaultPage and maxPage bound a list of the API.
	defaultPage = 50
	maxPage     = 1000

	// maxChange bounds the body of a request to change something, mostName and
	// mostReason what is kept of it, in bytes.
	maxChange  = 8 << 10
	mostName   = 100
	mostReason = 1000
)
