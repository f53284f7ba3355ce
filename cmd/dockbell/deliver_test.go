package main

import (
	"os"
	"testing"
)

// TestMain lets the program that runs the tests be a courier: the daemons in
// them start themselves for that.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == courier()[1] {
		main()
		return
	}
	os.Exit(m.Run())
}
