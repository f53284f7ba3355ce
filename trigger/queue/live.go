package queue

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/dockbell/dockbell/trigger"
)

// Output is what the action of a run writes in one try. It can be read while it
// is written, by as many as like to: nothing is kept for any of them. Of much
// both ends are kept, for errors stand at the end.
type Output struct {
	try int

	mu         sync.Mutex
	head, tail []byte
	left       int // bytes left out between them
	ended      bool
	more       chan struct{} // closed when there is more, or the end; nil while nobody waits
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(logLimit/2-len(o.head), len(p))
	o.head = append(o.head, p[:n]...)
	o.tail = append(o.tail, p[n:]...)
	if len(o.tail) >= logLimit { // moved only when it has doubled, so that each byte is moved once
		o.shorten()
	}
	o.wake()
	return len(p), nil
}

func (o *Output) shorten() {
	if over := len(o.tail) - logLimit/2; over > 0 {
		o.left += over
		o.tail = append(o.tail[:0], o.tail[over:]...)
	}
}

// wake lets those go on who wait for more.
func (o *Output) wake() {
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
}

// end says that nothing more will be written.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wake()
}

// Since gives what was written after the first n bytes, with a note in place of
// what is not kept, and how much has been written by the end of it. More is
// closed when there may be more to read; it is nil when there never will be.
func (o *Output) Since(n int) (text string, next int, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shorten()
	tailAt := len(o.head) + o.left
	next = tailAt + len(o.tail)
	n = min(max(n, 0), next)
	var kept []byte
	kept = append(kept, o.head[min(n, len(o.head)):]...)
	if out := tailAt - max(n, len(o.head)); out > 0 {
		kept = fmt.Appendf(kept, "\n… %d bytes left out …\n", out)
	}
	kept = append(kept, o.tail[max(n-tailAt, 0):]...)
	if !o.ended {
		if o.more == nil {
			o.more = make(chan struct{})
		}
		more = o.more
		rest := unfinished(kept)
		kept, next = kept[:len(kept)-rest], next-rest
	}
	return strings.ToValidUTF8(string(kept), "�"), next, more
}

// unfinished is how many bytes at the end are the beginning of a character of which
// the rest is still to come.
func unfinished(text []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if last := text[len(text)-i:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return i
		}
	}
	return 0
}

// Output is what a try of a run has written so far, or nil when that try is not
// being carried out here.
func (q *Queue) Output(run int64, try int) *Output {
	if o, ok := q.outputs.Load(run); ok && o.(*Output).try == try {
		return o.(*Output)
	}
	return nil
}

// capture lets what a try of a run writes be read, until done is called.
func (q *Queue) capture(r trigger.Run) (o *Output, done func()) {
	o = &Output{try: r.Attempt}
	q.outputs.Store(r.ID, o)
	return o, func() {
		q.outputs.CompareAndDelete(r.ID, o)
		o.end()
	}
}
