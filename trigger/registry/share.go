package registry

import (
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// shareTime is for how long an answer serves whoever asks the same: pollers
// with the same schedule ask at the same moment.
const shareTime = time.Second

// shared lets those who ask the same at about the same time share an answer.
// Errors are shared only among those that wait for them.
type shared struct {
	flight singleflight.Group

	mu      sync.Mutex
	answers map[string]answer
	swept   time.Time
}

type answer struct {
	value any
	until time.Time
}

// share gives the answer to what the key stands for.
func share[T any](s *shared, key string, ask func() (T, error)) (T, error) {
	if v, ok := s.get(key); ok {
		return v.(T), nil
	}
	v, err, _ := s.flight.Do(key, func() (any, error) {
		v, err := ask()
		if err == nil {
			s.put(key, v)
		}
		return v, err
	})
	return v.(T), err
}

func (s *shared) get(key string) (any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.answers[key]
	return a.value, ok && time.Now().Before(a.until)
}

func (s *shared) put(key string, v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.swept) > shareTime {
		for key, a := range s.answers {
			if now.After(a.until) {
				delete(s.answers, key)
			}
		}
		s.swept = now
	}
	if s.answers == nil {
		s.answers = map[string]answer{}
	}
	s.answers[key] = answer{v, now.Add(shareTime)}
}
