package store

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
)

// dialect is where the databases differ in what they understand. Statements
// are written as SQLite takes them.
type dialect struct {
	schema   string // folder of its steps
	numbered bool   // parameters are $1, $2 and so on
	shared   bool   // several replicas may use one store

	bound *sync.Map // statement -> how the database takes it
}

var (
	sqliteDialect   = dialect{schema: "sqlite"}
	postgresDialect = dialect{schema: "postgres", numbered: true, shared: true}
)

// bind writes a statement as the database takes it.
func (d dialect) bind(query string) string {
	if !d.numbered {
		return query
	}
	if b, ok := d.bound.Load(query); ok {
		return b.(string)
	}
	b := numbered(query)
	d.bound.Store(query, b)
	return b
}

// numbered replaces each ? by the next number, and ?1 by the first.
func numbered(query string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, ok := strings.Cut(query, "?")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		b.WriteByte('$')
		if after == "" || after[0] < '0' || after[0] > '9' {
			b.WriteString(strconv.Itoa(n))
		}
		query = after
	}
}

// values makes the arguments fit to be stored. PostgreSQL keeps no text that
// has a NUL or is not UTF-8, and senders write what they like.
func (d dialect) values(args []any) []any {
	if !d.numbered {
		return args
	}
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = storable(s)
		}
	}
	return args
}

func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
}

// among is a condition that a column is one of the ids of its one parameter.
func (d dialect) among(column string) string {
	if d.numbered {
		return column + " = ANY (?)"
	}
	return column + " IN (SELECT value FROM json_each(?))"
}

// list is the parameter of among.
func (d dialect) list(ids []int64) any {
	if d.numbered {
		return ids
	}
	text, err := json.Marshal(ids)
	if err != nil {
		panic(err) // a list of numbers always marshals
	}
	return string(text)
}
