//go:build go1.25

package verify_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"openct/internal/verify"
	"openct/internal/verify/verifytest"
)

// The reports that users have sent are played against the drivers of today. Package
// gen puts them there, and tests that what it puts there plays.
func TestHardware(t *testing.T) {
	files, err := filepath.Glob("../driver/testdata/hardware/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := verify.Parse(string(text))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
		})
	}
}
