package action

import (
	"bytes"
	"io"
)

// veilLimit is how much a veil keeps back, beside the length of secrets.
const veilLimit = 64 << 10

// veil passes on what is written to it, as it comes, with secrets blanked out.
// What may be the beginning of a secret is kept back until it is known whether
// it is one.
type veil struct {
	to    io.Writer
	forms []string // of the secrets, the longest first
	held  []byte
	inner bool // in the middle of a line
}

func newVeil(to io.Writer, secrets []string) *veil {
	return &veil{to: to, forms: formsOf(secrets)}
}

func (v *veil) Write(p []byte) (int, error) {
	v.held = append(v.held, p...)
	if err := v.pass(v.clear()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// end passes on what was kept back, and ends the last line.
func (v *veil) end() error {
	inner := v.inner
	if n := len(v.held); n > 0 {
		inner = v.held[n-1] != '\n'
	}
	if inner {
		v.held = append(v.held, '\n')
	}
	return v.pass(len(v.held))
}

// pass passes on the first n bytes of what is held.
func (v *veil) pass(n int) error {
	if n == 0 {
		return nil
	}
	v.inner = v.held[n-1] != '\n'
	_, err := io.WriteString(v.to, blank(string(v.held[:n]), v.forms))
	v.held = append(v.held[:0], v.held[n:]...)
	return err
}

// clear is how much of what is held, from its beginning, has no part of a
// secret at its end, whatever may follow.
func (v *veil) clear() int {
	cut := len(v.held)
	for _, form := range v.forms {
		for n := min(len(form)-1, len(v.held)); n > 0; n-- {
			if bytes.HasSuffix(v.held, []byte(form[:n])) {
				cut = min(cut, len(v.held)-n)
				break
			}
		}
	}
	for moved := true; moved; { // as long as there is a whole one across the cut
		moved = false
		for _, form := range v.forms {
			from, to := max(0, cut-len(form)+1), min(len(v.held), cut+len(form)-1)
			if from >= to {
				continue
			}
			if i := bytes.Index(v.held[from:to], []byte(form)); i >= 0 {
				cut, moved = from+i, true
			}
		}
	}
	if len(v.forms) > 0 && len(v.held)-cut > veilLimit+2*len(v.forms[0]) {
		return len(v.held) // a secret that follows itself without end
	}
	return cut
}
