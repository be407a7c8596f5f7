//go:build cgo

package gousbdev

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

func testContext(t *testing.T) *usbContext {
	t.Helper()
	ctx, err := newContext(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// waitAsleep returns when the event loop has gone to sleep.
func waitAsleep(t *testing.T, ctx *usbContext) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ctx.sleeps() == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the event loop does not go to sleep: gousb's calls do not reach events.c")
		}
	}
}

// Without events.c the loop never sleeps, and this test fails; one that wakes
// up for anything but the end falls asleep again.
func TestEventLoopSleeps(t *testing.T) {
	ctx := testContext(t)
	waitAsleep(t, ctx)
	if n := ctx.sleeps(); n != 1 {
		t.Errorf("it went to sleep %d times, want once", n)
	}
	if err := ctx.close(); err != nil {
		t.Error(err)
	}
	if n := ctx.sleeps(); n != 0 {
		t.Errorf("the closed context is still known, with %d sleeps", n)
	}
}

func TestContextsClose(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 10 {
				ctx, err := newContext(1, 1)
				if err != nil {
					t.Error(err)
					return
				}
				waitAsleep(t, ctx) // the close has to wake it
				if err := ctx.close(); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

func TestOpenDeviceNotThere(t *testing.T) {
	ctx, err := newContext(250, 120)
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.close()
	if dev, err := ctx.openDevice(250, 120); err == nil {
		t.Errorf("opened %v", dev)
	}
}

func TestCPointer(t *testing.T) {
	type s struct {
		ptr   *int
		other int
	}
	n := 1
	for _, tt := range []struct {
		name, field string
		of          *s
		ok          bool
	}{
		{"pointer", "ptr", &s{ptr: &n}, true},
		{"nil", "ptr", &s{}, false},
		{"no pointer", "other", &s{other: 1}, false},
		{"no such field", "gone", &s{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := cPointer(tt.of, tt.field)
			if (err == nil) != tt.ok || (p != nil) != tt.ok {
				t.Errorf("got %v, %v", p, err)
			}
		})
	}
}
