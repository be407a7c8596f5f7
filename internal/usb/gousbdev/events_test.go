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

// waitAsleep returns when the event loop has gone to sleep more than n times.
func waitAsleep(t *testing.T, ctx *usbContext, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ctx.longWaits() <= n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("the event loop went to sleep %d times, want more than %d: gousb's calls do not reach events.c", ctx.longWaits(), n)
		}
	}
}

// Without events.c no wait is ever a long one, and this test fails.
func TestEventLoopSleeps(t *testing.T) {
	ctx := testContext(t)
	for range 50 {
		n := ctx.longWaits()
		ctx.interrupt()
		waitAsleep(t, ctx, n)
	}
	if err := ctx.close(); err != nil {
		t.Error(err)
	}
	if n := ctx.longWaits(); n != 0 {
		t.Errorf("the closed context is still known, with %d waits", n)
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
				waitAsleep(t, ctx, 0) // the close finds it in its long wait
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
