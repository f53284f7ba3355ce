package source

import (
	"bytes"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json/v1"
)

// look is what a request shows at first sight: enough to tell the senders
// apart, without understanding any of them.
type look struct {
	header http.Header
	list   bool // the body is a list; keys are those of its first element

	// keys are those of the JSON object that the body is. Nil when it is none.
	keys map[string]json.RawMessage
}

// manyKeys is how many keys of a body are looked at. No sender has as many, and
// who has not been authenticated yet should not fill the memory.
const manyKeys = 64

// glance looks at a request. A body that is a form is looked at by its
// payload.
func glance(h http.Header, body []byte) look {
	l := look{header: h}
	body = payload(h, body)
	if !l.read(body) {
		// Docker Hub's own documentation shows a body that is no JSON.
		l = look{header: h}
		l.read(literalBackslashes(body))
	}
	return l
}

// read reads the first keys of an object, or of the first one in a list, and
// nothing behind them. It reports whether it was readable so far.
func (l *look) read(body []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(body))
	first, err := dec.Token()
	if err == nil && first == json.Delim('[') {
		l.list = true
		first, err = dec.Token()
	}
	if err != nil || first != json.Delim('{') {
		return err == nil
	}
	l.keys = map[string]json.RawMessage{}
	for n := 0; dec.More() && n < manyKeys; n++ {
		key, err := dec.Token()
		name, ok := key.(string)
		var value json.RawMessage
		if err != nil || !ok || dec.Decode(&value) != nil {
			return false
		}
		l.keys[name] = value
	}
	return true
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
