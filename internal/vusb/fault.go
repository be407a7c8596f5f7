package vusb

import (
	"context"
	"time"
)

// Fault is one disturbance of a device's transfers.
type Fault struct {
	// On selects the transfers it may hit; the zero value selects all.
	On Transfer

	Skip  int // so many of them pass unharmed first
	Times int // so many are hit; 0 means 1, negative for ever

	// What happens to a transfer that is hit. Set one; Delay goes with all.
	Delay  time.Duration // it takes so much longer
	Do     func()        // is done ahead of it, and it goes on
	Stall  bool          // the endpoint stalls
	Hang   bool          // no answer until the host gives up
	Unplug bool          // the device is pulled while the transfer is under way
	Mangle func([]byte) []byte
}

// Transfer names a kind of transfer.
type Transfer struct {
	Control bool  // a control request, otherwise an endpoint
	Code    uint8 // bRequest or endpoint address
}

// Short cuts an answer to n bytes.
func Short(n int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:min(n, len(b))] }
}

// Garbage replaces an answer by n bytes of nonsense.
func Garbage(n int) func([]byte) []byte {
	return func([]byte) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*37 + 0x5A)
		}
		return b
	}
}

// Inject adds a fault; faults are tried in the order they were injected, and
// at most one hits a transfer.
func (p *Port) Inject(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
}

// Heal removes all faults.
func (p *Port) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// hit finds the fault for the next transfer of this kind and counts it.
func (p *Port) hit(t Transfer) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.faults {
		if f.On != (Transfer{}) && f.On != t {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			}
		}
		return f
	}
	return nil
}

// before does what a fault does ahead of the device, and returns the fault for
// what it does to the answer.
func (p *Port) before(ctx context.Context, t Transfer) (*Fault, error) {
	f := p.hit(t)
	if f == nil {
		return nil, nil
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.Do != nil {
		f.Do()
	}
	switch {
	case f.Stall:
		return nil, ErrStall
	case f.Unplug:
		p.Unplug()
		return nil, context.Canceled
	case f.Hang:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f, nil
}

// after mangles the answer of a transfer that was hit.
func (f *Fault) after(in []byte, err error) ([]byte, error) {
	if f == nil || err != nil || f.Mangle == nil {
		return in, err
	}
	return f.Mangle(in), nil
}
