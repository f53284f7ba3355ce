package queue

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dockbell/dockbell/trigger"
)

// What a run writes is read while it runs, by its beginning and by its end.
func TestOutputWhileItRuns(t *testing.T) {
	var goOn chan struct{}
	bubble(t, func(_ context.Context, _ trigger.Run, log io.Writer) error {
		fmt.Fprint(log, "one ")
		<-goOn
		fmt.Fprint(log, "two")
		return nil
	}, func(r *rig) {
		goOn = make(chan struct{})
		id := r.accept()
		synctest.Wait()
		o := r.queue.Output(id, 1)
		if o == nil {
			t.Fatal("a run that runs has no output")
		}
		if r.queue.Output(id, 2) != nil || r.queue.Output(id+1, 1) != nil {
			t.Error("there is output of what does not run")
		}
		text, next, more := o.Since(0)
		if text != "one " || more == nil {
			t.Errorf("%q, more to come %t", text, more != nil)
		}
		close(goOn)
		<-more
		r.ended(id)
		if text, _, more := o.Since(next); text != "two" || more != nil {
			t.Errorf("%q, more to come %t", text, more != nil)
		}
		if text, _, more := o.Since(0); text != "one two" || more != nil {
			t.Errorf("%q, more to come %t", text, more != nil)
		}
		if r.queue.Output(id, 1) != nil {
			t.Error("the output of a run that has ended is not let go")
		}
		if _, tries := r.ended(id); tries[0].Log != "one two" {
			t.Errorf("kept is %q", tries[0].Log)
		}
	})
}

// A second try has an output of its own.
func TestOutputOfEachTry(t *testing.T) {
	bubble(t, func(_ context.Context, run trigger.Run, log io.Writer) error {
		fmt.Fprintf(log, "try %d", run.Attempt)
		if run.Attempt == 1 {
			return trigger.Retry(io.EOF)
		}
		return nil
	}, func(r *rig) {
		_, tries := r.ended(r.accept())
		if len(tries) != 2 || tries[0].Log != "try 1" || tries[1].Log != "try 2" {
			t.Errorf("%+v", tries)
		}
	})
}

// Whoever reads piece by piece gets the same as who reads at the end.
func TestOutputInPieces(t *testing.T) {
	o := &Output{}
	const text = "a – ü 漢 🦀\n"
	var got strings.Builder
	at := 0
	for _, b := range []byte(text) {
		_, _ = o.Write([]byte{b})
		var piece string
		piece, at, _ = o.Since(at)
		got.WriteString(piece)
	}
	if got.String() != text || at != len(text) {
		t.Errorf("%q up to %d", got.String(), at)
	}
	_, _ = o.Write([]byte("\xf0\x9f"))
	if piece, next, _ := o.Since(at); piece != "" || next != at {
		t.Errorf("half a character is given: %q", piece)
	}
	o.end()
	if piece, _, more := o.Since(at); piece != "�" || more != nil {
		t.Errorf("half a character at the end: %q", piece)
	}
}

// Who reads too slowly is told how much they missed, and goes on from there.
func TestOutputMissed(t *testing.T) {
	const half = logLimit / 2
	o := &Output{}
	for range 5 {
		_, _ = o.Write([]byte(strings.Repeat("a", half-1) + "\n"))
	}
	_, _ = o.Write([]byte("end"))
	all := 5*half + 3
	for from, want := range map[int]string{
		0:         fmt.Sprintf("%s\n\n… %d bytes left out …\n", strings.Repeat("a", half-1), all-2*half),
		half - 1:  fmt.Sprintf("\n\n… %d bytes left out …\n", all-2*half),
		half + 10: fmt.Sprintf("\n… %d bytes left out …\n", all-2*half-10),
		all - 4:   "\nend",
		all - 3:   "end",
		all:       "",
		all + 99:  "",
		-1:        "a",
	} {
		text, next, more := o.Since(from)
		if !strings.HasPrefix(text, want) || next != all || more == nil {
			t.Errorf("from %d: %.60q up to %d, want %.60q up to %d", from, text, next, want, all)
		}
		if from < all && !strings.HasSuffix(text, "end") {
			t.Errorf("from %d: the end is not there: %q", from, text[max(0, len(text)-10):])
		}
	}
	if len(o.head)+len(o.tail) > 2*logLimit {
		t.Errorf("%d bytes are kept", len(o.head)+len(o.tail))
	}
}
