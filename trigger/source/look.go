package source

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
)

// look is what a request shows at first sight: enough to tell the senders
// apart, without understanding any of them.
type look struct {
	header http.Header
	list   bool // the body is a list; keys are those of its first element

	// keys are those of the JSON object that the body is. Nil when it is none.
	keys map[string]json.RawMessage
}

// glance looks at a request. A body that is a form is looked at by its
// payload.
func glance(h http.Header, body []byte) look {
	l := look{header: h}
	body = bytes.TrimSpace(payload(h, body))
	if bytes.HasPrefix(body, []byte("[")) {
		l.list = true
		var elements []json.RawMessage
		if json.Unmarshal(body, &elements) != nil || len(elements) == 0 {
			return l
		}
		body = elements[0]
	}
	if err := json.Unmarshal(body, &l.keys); err != nil {
		// Docker Hub's own documentation shows a body that is no JSON.
		_ = json.Unmarshal(literalBackslashes(body), &l.keys)
	}
	return l
}

// has reports whether the object has all of the keys.
func (l look) has(keys ...string) bool {
	for _, key := range keys {
		if _, ok := l.keys[key]; !ok {
			return false
		}
	}
	return true
}

// text is the string at a key; "" when there is none.
func (l look) text(key string) string {
	var s string
	_ = json.Unmarshal(l.keys[key], &s) // what is no string is none
	return s
}

// inner looks at the object at a key; one without keys when there is none.
func (l look) inner(key string) look {
	in := look{header: l.header}
	_ = json.Unmarshal(l.keys[key], &in.keys) // what is no object has no keys
	return in
}

// isForm reports whether the body is a form, by its Content-Type.
func isForm(h http.Header) bool {
	return bare(h.Get("Content-Type")) == "application/x-www-form-urlencoded"
}

// payload is the JSON of a body that may be a form: several vendors let their
// users choose, and put the JSON into its field "payload", one of them as a
// quoted string. A body that is JSON whatever its Content-Type says is itself.
func payload(h http.Header, body []byte) []byte {
	body = bytes.TrimPrefix(body, byteOrderMark)
	text := bytes.TrimSpace(body)
	if !isForm(h) || bytes.HasPrefix(text, []byte("{")) || bytes.HasPrefix(text, []byte("[")) {
		return body
	}
	form, err := url.ParseQuery(string(text))
	if err != nil {
		return body
	}
	inner := form.Get("payload")
	var quoted string
	if json.Unmarshal([]byte(inner), &quoted) == nil {
		return []byte(quoted)
	}
	return []byte(inner)
}
