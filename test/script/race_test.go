//go:build race

package script

// buildFlags: a test with the race detector tests programs that have it, too.
var buildFlags = []string{"-race"}
