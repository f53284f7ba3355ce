package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/dockbell/dockbell/trigger"
)

// deliveryRow is a delivery as a row without its id: made before the writer has
// it, for whom all others wait. What senders tell is told again and again, and
// packed it takes two thirds of the room.
func deliveryRow(d trigger.Delivery) ([]any, error) {
	header, err := json.Marshal(d.Header)
	if err != nil {
		return nil, err
	}
	body := s2.Encode(nil, d.Body)
	packed := len(body) < len(d.Body)
	if !packed {
		body = append([]byte{}, d.Body...) // nil is NULL to the driver; a poll has no body
	}
	return []any{nil, d.Source, nanos(d.ReceivedAt), string(header), body, packed}, nil
}

// Delivery gives a recorded delivery; ok is false when it is not kept (any
// more).
func (s *Store) Delivery(ctx context.Context, id int64) (d trigger.Delivery, ok bool, err error) {
	var header string
	var packed bool
	ok, err = s.queryRow(ctx, "SELECT source, received_at, header, body, packed FROM deliveries WHERE id = ?", []any{id}, &d.Source, (*nanoTime)(&d.ReceivedAt), &header, &d.Body, &packed)
	if !ok {
		return d, false, err
	}
	if packed {
		if d.Body, err = s2.Decode(nil, d.Body); err != nil {
			return d, false, fmt.Errorf("the body of delivery %d: %w", id, err)
		}
	}
	return d, true, json.Unmarshal([]byte(header), &d.Header)
}
