//go:build go1.25

package driver

import (
	"testing"

	"openct/internal/serial/serialtest"
)

func TestKaanRecorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files: []string{"testdata/readers/kaan.jsonl"},
		Open:  openKaan,
		Differences: kaanDifferences(serialtest.At("kaan.jsonl:990", "S(RESYNCH request) is sent three times", func(w *serialtest.Window) {
			w.Steps = append(w.Steps, w.Steps[len(w.Steps)-1], w.Steps[len(w.Steps)-1])
		})),
	})
}

func TestB1Recorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/b1.jsonl"},
		Open:        openB1,
		Differences: kaanDifferences(),
	})
}
