package registry

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const (
	// pageSize is how many tags or names are asked for at once.
	pageSize = 1000

	// mostPages and mostNames bound a list, which a registry can let go on for
	// ever. Some give no more than a hundred names a page.
	mostPages = 2000
	mostNames = 500_000
)

// tooMuchError is an answer that is cut off. It says nothing of how well the
// registry is.
type tooMuchError struct{ text string }

func (e *tooMuchError) Error() string { return e.text }

// Tags lists the tags of a repository. A repository that is not there is
// ErrNotFound. The list is the caller's to read, not to change.
func (r *Registries) Tags(ctx context.Context, host, repository string) ([]string, error) {
	return share(&r.shared, "tags "+host+"/"+repository, func() (tags []string, err error) {
		err = r.ask(ctx, host, repository, func(p *remote.Puller, repo name.Repository) error {
			pages, err := p.Lister(ctx, repo)
			if err != nil {
				return err
			}
			tags, err = collect(ctx, "tags", pages, func(page *remote.Tags) []string { return page.Tags })
			return err
		})
		return tags, err
	})
}

// Catalogue lists the repositories of a registry that offers that. The list is
// the caller's to read, not to change.
func (r *Registries) Catalogue(ctx context.Context, host string) ([]string, error) {
	return share(&r.shared, "catalogue "+host, func() (repositories []string, err error) {
		err = r.ask(ctx, host, "", func(p *remote.Puller, repo name.Repository) error {
			pages, err := p.Catalogger(ctx, repo.Registry)
			if err != nil {
				return err
			}
			repositories, err = collect(ctx, "repositories", pages, func(page *remote.Catalogs) []string { return page.Repos })
			return err
		})
		return repositories, err
	})
}

// pages is a list that comes in pieces.
type pages[P any] interface {
	HasNext() bool
	Next(ctx context.Context) (P, error)
}

// collect reads a list to its end, or until it is taken for one without.
func collect[P any](ctx context.Context, what string, list pages[P], names func(P) []string) (all []string, err error) {
	for n := 0; list.HasNext(); n++ {
		if n == mostPages {
			return nil, &tooMuchError{fmt.Sprintf("its list of %s does not end: there is a next page after %d", what, n)}
		}
		page, err := list.Next(ctx)
		if err != nil {
			return nil, err
		}
		if all = append(all, names(page)...); len(all) > mostNames {
			return nil, &tooMuchError{fmt.Sprintf("its list of %s does not end: it has more than %d", what, mostNames)}
		}
	}
	return all, nil
}
