package action

import (
	"bytes"
	"fmt"
	"strings"
)

// outputLimit is how much of a command's output is kept, half of it from its
// beginning and half from its end, where errors stand.
const outputLimit = 64 << 10

// output keeps both ends of what is written to it.
type output struct {
	head, tail []byte
	left       int // bytes left out
}

func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	if room := min(outputLimit/2-len(o.head), len(p)); room > 0 {
		o.head = append(o.head, p[:room]...)
		p = p[room:]
	}
	o.tail = append(o.tail, p...)
	// Moved only when it has doubled, so that each byte is moved once.
	if len(o.tail) >= outputLimit {
		o.shorten(outputLimit / 2)
	}
	return n, nil
}

func (o *output) shorten(to int) {
	if over := len(o.tail) - to; over > 0 {
		o.left += over
		o.tail = append(o.tail[:0], o.tail[over:]...)
	}
}

// text is what was kept, without secrets.
func (o *output) text(secrets []string) string {
	o.shorten(outputLimit / 2)
	show := func(b []byte) string { return hide(strings.ToValidUTF8(string(b), "�"), secrets) }
	if o.left == 0 {
		return strings.TrimRight(show(append(bytes.Clone(o.head), o.tail...)), "\n")
	}
	// At the cut there may stand a part of a secret, which hide cannot see. A
	// byte takes at most six as it travels: \u0000.
	head, tail, edge := show(o.head), show(o.tail), 0
	for _, s := range secrets {
		edge = max(edge, 6*len(s))
	}
	edge = min(edge, len(head), len(tail))
	head, tail = strings.ToValidUTF8(head[:len(head)-edge], ""), strings.ToValidUTF8(tail[edge:], "")
	return fmt.Sprintf("%s\n… %d bytes left out …\n%s", head, o.left+2*edge, strings.TrimRight(tail, "\n"))
}
