package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// Every handler pays for what packages make before main, in time and in memory that
// stays.
func TestStartIsCheap(t *testing.T) {
	const most = 16 << 10
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1") // runtime, "Environment Variables"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inits := regexp.MustCompile(`(?m)^init (openct/\S+) .* (\d+) bytes`).FindAllSubmatch(out, -1)
	if len(inits) == 0 {
		t.Fatalf("no package tells of its start: %s", out)
	}
	for _, m := range inits {
		if n, err := strconv.Atoi(string(m[2])); err != nil || n > most {
			t.Errorf("package %s makes %s bytes before main, want at most %d", m[1], m[2], most)
		}
	}
}
