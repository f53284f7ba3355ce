// Package action holds the effects outside Kubernetes: one file per kind with
// its specification, its checks and what it does. An action tries once; by its
// error it says whether a repeat is safe.
//
// What decides that for every call over HTTP:
//
//   - Nothing was sent (no address, no connection, no TLS): repeat.
//   - The other side says that it did nothing (408, 429, 503): repeat, not
//     before its Retry-After.
//   - It may have happened (the connection broke or the time ran out after the
//     request was sent; 500, 502, 504): repeat only what does no harm twice,
//     which is GET, HEAD, OPTIONS, PUT and DELETE, and what its kind says so
//     of: because it changes nothing, or because the next try first looks for
//     what this one has begun. The rest ends as unknown.
//   - Everything else needs a person: do not repeat.
//
// What has begun something that takes its time says so by [trigger.OnlyWaits]
// and asks how it goes ([follow]) until it has ended.
//
// The package knows nothing of rules, the queue or the store: it gets final
// parameters and a run. Specifications refer to secrets and never hold them;
// no error and no log line shows one.
package action
