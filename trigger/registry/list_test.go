package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A list that does not end is an error of its own; the registry is not taken
// to be in trouble, since all else may be well with it.
func TestListsWithoutEnd(t *testing.T) {
	nextPage := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/_catalog" || strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Link", "<"+r.URL.Path+`?n=1000&last=z>; rel="next"`)
				w.WriteHeader(http.StatusOK)
				fmt.Fprint(w, body)
			}
		}
	}
	longPage := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/_catalog" && !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return
		}
		w.WriteHeader(http.StatusOK)
		_, err := fmt.Fprint(w, `{"tags":["a"`)
		for more := strings.Repeat(`,"a"`, 10_000); err == nil; {
			_, err = fmt.Fprint(w, more) // until nobody reads it
		}
	}
	full := `"a"` + strings.Repeat(`,"a"`, mostNames/10)
	for name, test := range map[string]struct {
		first           http.HandlerFunc
		tags, catalogue string
	}{
		"always a next page": {
			nextPage(`{"tags":["a"],"repositories":[]}`),
			"its list of tags does not end: there is a next page after 2000", "its list of repositories does not end: there is a next page after 2000",
		},
		"full pages": {
			nextPage(`{"tags":[` + full + `],"repositories":[` + full + `]}`),
			"its list of tags does not end: it has more than 500000", "its list of repositories does not end: it has more than 500000",
		},
		"a page without end": {longPage, "its answer is longer than 16 MiB", "its answer is longer than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, test.first)
			r := f.registries(t, "", nil)
			if _, err := r.Tags(t.Context(), f.host(), "shop/web"); err == nil || err.Error() != test.tags || troubleIn(err) != none {
				t.Errorf("tags: %v, want %s", err, test.tags)
			}
			if _, err := r.Catalogue(t.Context(), f.host()); err == nil || err.Error() != test.catalogue || troubleIn(err) != none {
				t.Errorf("catalogue: %v, want %s", err, test.catalogue)
			}
		})
	}
}

// numbered gives so many pages of one name each, and then an error, if any.
type numbered struct {
	left int
	err  error
}

func (n *numbered) HasNext() bool { return n.left > 0 || n.err != nil }

func (n *numbered) Next(context.Context) (string, error) {
	if n.left == 0 {
		return "", n.err
	}
	n.left--
	return fmt.Sprint(n.left), nil
}

func TestCollect(t *testing.T) {
	one := func(name string) []string { return []string{name} }
	if got, err := collect(t.Context(), "names", &numbered{left: 3}, one); err != nil || !slices.Equal(got, []string{"2", "1", "0"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := collect(t.Context(), "names", &numbered{left: mostPages}, one); err != nil || len(got) != mostPages {
		t.Errorf("as many pages as allowed: %d, %v", len(got), err)
	}
	broken := errors.New("broken")
	if _, err := collect(t.Context(), "names", &numbered{left: 3, err: broken}, one); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}
