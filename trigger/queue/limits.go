package queue

import (
	"cmp"
	"math/rand/v2"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// workers is how many runs are carried out at once, beside those that only
	// wait. They wait for the answers of clusters and servers, so there are
	// more of them than cores.
	workers = 64

	// awaiting is how many runs may be in the middle beside those, while somebody
	// is slow to answer them. One slow server is not to hold up what goes to
	// others, and a flood is not to open connections without end.
	awaiting = 1024

	// storeRetry is how long the queue waits when the store cannot be read
	// or written, a full disk say.
	storeRetry = time.Second

	// firstBackoff and mostBackoff bound the wait between two tries. It
	// doubles from the first; the bound keeps an outage's end from being
	// noticed late.
	firstBackoff = time.Second
	mostBackoff  = 30 * time.Second

	// recoverEvery is how often the queue looks whether another replica has
	// died.
	recoverEvery = time.Second

	// mostAfter bounds the wait that a server may ask for, which would keep
	// the lane waiting too. GitHub's rate limit starts anew every hour.
	mostAfter = time.Hour

	// longestSleep is how long the queue sleeps without a look at the clock,
	// which may have been set forward.
	longestSleep = time.Minute

	// tellEvery is how often the queue looks whether there is something to
	// tell, beside the times when it is told so; tellAtOnce how much it takes
	// in one go, which is what one summary can be of.
	tellEvery  = 10 * time.Second
	tellAtOnce = 500

	// tellFreely is how many messages people get one by one in a tellPeriod.
	tellFreely = 10
	tellPeriod = time.Minute

	// logLimit is how much of what an action writes is kept with its run, half
	// of it from the beginning and half from the end.
	logLimit = 64 << 10
)

// backoff is the wait after a try, which counts from 1. A random half of it
// keeps runs that failed together from coming back together.
func backoff(r trigger.Run) time.Duration {
	first, most := cmp.Or(r.FirstBackoff, firstBackoff), cmp.Or(r.MostBackoff, max(mostBackoff, r.FirstBackoff))
	first = min(first, most)
	d := most
	if doublings := r.Attempt - 1; doublings < 32 && first <= most>>doublings {
		d = first << doublings
	}
	return d/2 + rand.N(d/2+1)
}

// steady is the clock's time, or when it was set back since began the time
// that has passed since then: what was due stays due.
func steady(now, began time.Time, passed time.Duration) time.Time {
	return time.Unix(0, max(now.UnixNano(), began.UnixNano()+int64(passed)))
}
