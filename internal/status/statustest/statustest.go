// Package statustest makes status files for tests: what "openct-control init" makes,
// and what a handler puts there.
package statustest

import (
	"testing"

	"openct/internal/status"
)

// Init makes the status file in dir.
func Init(t testing.TB, dir string) {
	t.Helper()
	if err := status.Init(dir, status.Options{UID: -1, GID: -1}); err != nil {
		t.Fatal(err)
	}
}

// Claim takes an entry of dir's status file for this process. The entry is free again
// when the test ends, or when the test has released it.
func Claim(t testing.TB, dir string, d status.Detail) *status.Slot {
	t.Helper()
	f, err := status.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := status.Claim(f, d)
	if err != nil {
		f.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Release()
		f.Close()
	})
	return s
}

// Serve is Claim for a reader that is ready.
func Serve(t testing.TB, dir string, d status.Detail, info status.Info) *status.Slot {
	t.Helper()
	s := Claim(t, dir, d)
	if err := s.Publish(info); err != nil {
		t.Fatal(err)
	}
	return s
}
