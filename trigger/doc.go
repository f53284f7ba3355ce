// Package trigger holds the words of dockbell: one value flows through the
// program, Event to Run to outcome, and every other package speaks of it in
// these terms.
//
// It does no I/O, reads no clock, logs nothing and knows no other package of
// the project; what is here are types, small pure functions and the classes
// of error.
package trigger
