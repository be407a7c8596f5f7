//go:build go1.25

package driver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/pcmcia"
	"openct/internal/proto"
	"openct/internal/serial/record"
	"openct/internal/serial/serialtest"
	"openct/internal/usb"
)

func TestCM4000Recorded(t *testing.T) {
	const look = cm4000Looks
	steps := func(text string) []serialtest.Step { return cm4000Steps(t, text) }
	differences := []serialtest.Difference{
		{Why: "C OpenCT's core looked for the card as well", Change: func(w *serialtest.Window) bool {
			if w.Phase != serialtest.Request || len(w.Steps) != 4 || w.Steps[0].Pipe != "ioctl/0" || w.Steps[2].Pipe != "ioctl/0" {
				return false
			}
			w.Steps = w.Steps[2:]
			return true
		}},
		{Why: "a reset looks for the card first: without one the kernel would wait for it", Change: func(w *serialtest.Window) bool {
			if w.Phase != serialtest.Request || w.Request[0] != 0x10 {
				return false
			}
			w.Steps = append(steps(look), w.Steps...)
			return true
		}},
	}
	at := func(line int, why string, change func(*serialtest.Window)) {
		differences = append(differences, serialtest.At(fmt.Sprintf("cm4000.jsonl:%d", line), why, change))
	}
	script := func(line int, why, text, reply string) {
		at(line, why, func(w *serialtest.Window) {
			w.Steps, w.Reply, w.Failed = steps(text), unhex(reply), reply == ""
		})
	}
	answered := func(line int, reply string) {
		at(line, "T=0 commands are exchanged whole, and bring data", func(w *serialtest.Window) { w.Reply, w.Failed = unhex(reply), false })
	}
	// whole makes of the blocks of a command one; the card's I-blocks, and the
	// R-blocks that ask for them, stay.
	whole := func(line int, pcb byte) {
		at(line, "a block is as long as the ATR allows, not 32 bytes", func(w *serialtest.Window) {
			i := slices.IndexFunc(w.Steps, func(s serialtest.Step) bool { return s.Kind == serialtest.Answer && s.Data[1]&0x80 == 0 })
			b := block(pcb, apduOf(w))
			b.Echo = nil
			w.Steps = append([]serialtest.Step{b}, w.Steps[i:]...)
		})
	}
	const news = "a card that is found is news once"
	const bare = "a command that is a header alone has four bytes: with five the kernel expects 256 bytes of data"
	at(9, news, func(w *serialtest.Window) { w.Reply = unhex("020103") })
	script(17, bare, "> 00440000\n< 9000", "4500029000")
	script(21, "a command is repeated with the Le that the card names", "> 00b0400000\n< 6c05\n> 00b0400005\n< 31323334359000", "45000731323334359000")
	answered(25, "45000790919293949000")
	answered(33, "45000710111213149000")
	script(42, bare, "> 00440000\n< 9000", "4500029000")
	at(47, "a protocol that the card does not speak is refused", func(w *serialtest.Window) { w.Failed = true })
	whole(98, 0x00)
	whole(108, 0x40)
	for _, line := range []int{136, 142, 146, 152, 156, 162} {
		at(line, "numbers of the blocks, after fewer of them", func(w *serialtest.Window) {
			b := slices.Clone(w.Steps[0].Data)
			b[1] ^= 0x40
			b[len(b)-1] ^= 0x40
			w.Steps[0].Data = b
		})
	}
	at(178, "without a card nothing is asked of it", func(w *serialtest.Window) { w.Steps = steps(">ioctl/0\n<ioctl/0 00000000") })
	at(185, news, func(w *serialtest.Window) { w.Reply = unhex("020103") })
	at(201, "a card that left is news once", func(w *serialtest.Window) { w.Reply = unhex("020102") })
	differences = append(differences, serialtest.Difference{
		Why: "before something is sent to a card it is looked for: the kernel would give it to the next one",
		Change: func(w *serialtest.Window) bool {
			var all []serialtest.Step
			for _, s := range w.Steps {
				if s.Kind == serialtest.Write && s.Pipe == "" {
					all = append(all, steps(look)...)
				}
				all = append(all, s)
			}
			changed := len(all) > len(w.Steps)
			w.Steps = all
			return changed
		},
	})
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/cm4000.jsonl"},
		OpenNode:    openCM4000,
		Differences: differences,
	})
}

func cm4000Steps(t testing.TB, text string) []serialtest.Step {
	t.Helper()
	s, err := record.Steps(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// brokenNode fails where a script cannot say so.
type brokenNode struct {
	pcmcia.Node
	write, cardOff, pts error
}

func (n *brokenNode) Write(ctx context.Context, b []byte, timeout time.Duration) error {
	if err := n.Node.Write(ctx, b, timeout); err != nil || n.write == nil {
		return err
	}
	return device.Wrap("write", n.Name(), n.write)
}

func (n *brokenNode) Ioctl(ctx context.Context, q pcmcia.Request, arg []byte, timeout time.Duration) error {
	err := n.Node.Ioctl(ctx, q, arg, timeout)
	switch {
	case err != nil:
	case q == cm4000CardOff:
		err = n.cardOff
	case q == cm4000PTS:
		err = n.pts
	}
	return err
}

const (
	cm4000Looks  = ">ioctl/0\n<ioctl/0 0f000000\n"
	cm4000Absent = ">ioctl/0\n<ioctl/0 00000000\n"
	cm4000Off    = ">ioctl/4\n"
)

// cm4000GivesATR is the request for an ATR that has, or says that it has, n bytes.
func cm4000GivesATR(n int32, raw string) string {
	arg := make([]byte, cm4000ATRArgument)
	binary.NativeEndian.PutUint32(arg, uint32(n))
	copy(arg[4:], unhex(raw))
	return fmt.Sprintf(">ioctl/1\n<ioctl/1 %x\n", arg)
}

func TestCM4000Opens(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		want         error
	}{
		{"card", cm4000Looks, nil},
		{"no card", cm4000Absent, nil},
		{"no answer", ">ioctl/0\n", device.ErrTimeout},
		{"another driver", ">ioctl/0\n<ioctl/0 55aa00ff\n", ifd.ErrComm},
		{"reader gone", ">ioctl/0\n<ioctl/0 10000000\n", device.ErrUnplugged},
		{"pulled", ">ioctl/0\nunplug", device.ErrUnplugged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serialtest.New(t, tt.script)
				if _, err := openCM4000(l.Node(), ifd.Options{}); !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				l.Done()
			})
		})
	}
}

// What may go wrong gives one error, in a bounded time, and the next reset works.
func TestCM4000Faults(t *testing.T) {
	const (
		t0Card = "3b021450"
		t1Card = "3bd218008131fe58c90114"
		read   = cm4000Looks + "> 00b0000002\n"
		block  = cm4000Looks + "> 00000500b0000002b7\n"
	)
	up := func(raw string) string { return cm4000Looks + cm4000Off + cm4000GivesATR(int32(len(raw)/2), raw) }
	for _, tt := range []struct {
		name   string
		reset  string
		fails  error // of the reset
		script string
		broken brokenNode
		resp   string
		want   error
		within time.Duration
	}{
		{"T=0", up(t0Card), nil, read + "< 11229000", brokenNode{}, "11229000", nil, 0},
		{"T=1", up(t1Card), nil, block + "< 000004112290" + "00a7", brokenNode{}, "11229000", nil, 0},
		{"no answer to read", up(t0Card), nil, read, brokenNode{}, "", device.ErrTimeout, cm4000Command},
		{"kernel gives up, card in", up(t0Card), nil, read + cm4000Looks, brokenNode{write: device.ErrIO}, "", ifd.ErrComm, 0},
		{"kernel gives up, T=1", up(t1Card), nil, block + cm4000Looks, brokenNode{write: device.ErrIO}, "", ifd.ErrComm, 0},
		{"card pulled in the middle", up(t0Card), nil, read + cm4000Absent, brokenNode{write: device.ErrIO}, "", ifd.ErrNoCard, 0},
		{"garbage", up(t0Card), nil, read + "< 55aa00ff12345678", brokenNode{}, "", ifd.ErrComm, 0},
		{"one byte", up(t0Card), nil, read + "< 90", brokenNode{}, "", ifd.ErrComm, 0},
		{"too long", up(t0Card), nil, read + "< " + strings.Repeat("11", 260) + "9000", brokenNode{}, "", ifd.ErrComm, 0},
		{"longer than a message", up(t0Card), nil, read + "< " + strings.Repeat("11", 600) + "9000", brokenNode{}, "", usb.ErrOverflow, 0},
		{"T=1, garbage for ever", up(t1Card), nil, block + strings.Repeat("< 55aa00ff\n"+cm4000Looks+"> 00820082\n", 2) + "< 55aa00ff\n" +
			strings.Repeat(cm4000Looks+"> 00c000c0\n< 55aa00ff\n", 3), brokenNode{}, "", proto.ErrProtocol, 0},
		{"reader pulled", up(t0Card), nil, read + "unplug", brokenNode{}, "", device.ErrUnplugged, 0},
		{"reset: no card", cm4000Absent, ifd.ErrNoCard, "", brokenNode{}, "", nil, 0},
		{"reset: status does not come", ">ioctl/0\n", device.ErrTimeout, "", brokenNode{}, "", nil, 0},
		{"reset: never answered", ">ioctl/0\n<ioctl/0 27000000\n" + cm4000GivesATR(-1, ""), ifd.ErrNoATR, "", brokenNode{}, "", nil, 0},
		{"reset: mute", cm4000Looks + cm4000Off, ifd.ErrNoATR, "", brokenNode{cardOff: device.ErrTimeout}, "", nil, 0},
		{"reset: no ATR comes", cm4000Looks + cm4000Off + ">ioctl/1\n", ifd.ErrNoATR, "", brokenNode{}, "", nil, 0},
		{"reset: empty ATR", cm4000Looks + cm4000Off + cm4000GivesATR(0, ""), ifd.ErrNoATR, "", brokenNode{}, "", nil, 0},
		{"reset: ATR of 34 bytes", cm4000Looks + cm4000Off + cm4000GivesATR(34, t0Card), ifd.ErrInvalidATR, "", brokenNode{}, "", nil, 0},
		{"reset: ATR of 2 GB", cm4000Looks + cm4000Off + cm4000GivesATR(0x7FFFFFFF, t0Card), ifd.ErrInvalidATR, "", brokenNode{}, "", nil, 0},
		{"reset: length below 0", cm4000Looks + cm4000Off + cm4000GivesATR(-2, t0Card), ifd.ErrInvalidATR, "", brokenNode{}, "", nil, 0},
		{"reset: nonsense as ATR", up("55aa00ff"), ifd.ErrInvalidATR, "", brokenNode{}, "", nil, 0},
		{"reset: another driver", ">ioctl/0\n<ioctl/0 0f000100\n", ifd.ErrComm, "", brokenNode{}, "", nil, 0},
		{"reset: pulled", cm4000Looks + cm4000Off + "unplug", device.ErrUnplugged, "", brokenNode{}, "", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serialtest.New(t, cm4000Looks)
				node := tt.broken
				node.Node = l.Node()
				r, err := openCM4000(&node, ifd.Options{})
				if err != nil {
					t.Fatal(err)
				}
				slot := r.Slots()[0]
				l.Next("reset and command", tt.reset+tt.script)
				raw, err := slot.Reset(t.Context())
				if !errors.Is(err, tt.fails) {
					t.Fatalf("reset: %v, want %v", err, tt.fails)
				}
				if err == nil {
					e := engine(t, slot, raw)
					begin := time.Now()
					resp, err := e.Transmit(t.Context(), unhex("00b0000002"), nil)
					if !errors.Is(err, tt.want) || fmt.Sprintf("%x", resp) != tt.resp {
						t.Errorf("response %x, %v; want %s, %v", resp, err, tt.resp, tt.want)
					}
					if took := time.Since(begin); took > tt.within {
						t.Errorf("it took %v", took)
					}
					if tt.want != nil {
						if _, err := e.Transmit(t.Context(), unhex("00b0000002"), nil); !errors.Is(err, proto.ErrResetRequired) {
							t.Errorf("without a reset: %v", err)
						}
					}
				}
				l.Done()
				if errors.Is(tt.want, device.ErrUnplugged) || errors.Is(tt.fails, device.ErrUnplugged) {
					return
				}
				node.write, node.cardOff = nil, nil
				l.Next("next reset", up(t0Card))
				if _, err := slot.Reset(t.Context()); err != nil {
					t.Errorf("next reset: %v", err)
				}
				l.Done()
			})
		})
	}
}

// pendingNode is a kernel that waits for a card.
type pendingNode struct{ pcmcia.Node }

func (pendingNode) Ioctl(context.Context, pcmcia.Request, []byte, time.Duration) error {
	return fmt.Errorf("%w: %w", device.ErrTimeout, pcmcia.ErrPending)
}

// While the kernel waits for an answer to reset there is no card, and no error once a
// second.
func TestCM4000Pending(t *testing.T) {
	c := &cm4000{node: pendingNode{}}
	if st, err := c.Status(t.Context()); err != nil || st.Present {
		t.Errorf("status %+v, %v", st, err)
	}
	if _, err := c.Reset(t.Context()); !errors.Is(err, device.ErrTimeout) {
		t.Errorf("reset: %v", err)
	}
}

func TestCM4000Protocols(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		p         proto.ID
		script    string
		pts       error
		want      error
	}{
		{"T=0 by default", starcosT0, proto.Default, "", nil, nil},
		{"T=0 is what the kernel talks", starcosT0, proto.T0, "", nil, nil},
		{"T=1 is selected", starcosT0, proto.T1, fmt.Sprintf(">ioctl/2 %x00000000", binary.NativeEndian.AppendUint32(nil, 2)), nil, nil},
		{"T=1 is refused", starcosT0, proto.T1, fmt.Sprintf(">ioctl/2 %x00000000", binary.NativeEndian.AppendUint32(nil, 2)), device.ErrIO, atr.ErrPPS},
		{"T=1 alone", starcosATR, proto.Default, "", nil, nil},
		{"not offered", starcosATR, proto.T0, "", nil, ifd.ErrNotSupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := serialtest.New(t, tt.script)
			a, err := atr.Parse(hextest.Bytes(t, tt.atr))
			if err != nil {
				t.Fatal(err)
			}
			c := &cm4000{node: &brokenNode{Node: l.Node(), pts: tt.pts}}
			if _, err := c.Protocol(t.Context(), tt.p, a); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			l.Done()
		})
	}
}

// hostileNode is a kernel whose answers are a fuzzer's bytes.
type hostileNode struct{ data []byte }

func (n *hostileNode) take(buf []byte) (int, error) {
	if len(n.data) == 0 {
		return 0, device.ErrUnplugged
	}
	k := min(int(n.data[0])*3, len(n.data)-1)
	m := copy(buf, n.data[1:1+k])
	n.data = n.data[1+k:]
	return m, nil
}

func (n *hostileNode) Name() string          { return "fuzz" }
func (n *hostileNode) Gone() <-chan struct{} { return nil }
func (n *hostileNode) Close() error          { return nil }
func (n *hostileNode) Ioctl(_ context.Context, _ pcmcia.Request, arg []byte, _ time.Duration) error {
	_, err := n.take(arg)
	return err
}

func (n *hostileNode) Write(context.Context, []byte, time.Duration) error {
	if len(n.data) == 0 {
		return device.ErrUnplugged
	}
	return nil
}

func (n *hostileNode) Read(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	return n.take(buf)
}

func FuzzCM4000(f *testing.F) {
	seed := func(n byte, raw string) []byte {
		b := append([]byte{2, 0x0F, 0, 0, 0, 0, 0, 2, 0x0F, 0, 0, 0, 0, 0, 1, 0, 0, 0, 26, n, 0, 0, 0}, unhex(raw)...)
		return append(append(b, make([]byte, 74-len(unhex(raw)))...), 2, 0x11, 0x22, 0x33, 0x44, 0x90, 0)
	}
	f.Add(seed(4, "3b021450"))
	f.Add(seed(11, "3bd218008131fe58c90114"))
	f.Add(seed(0xFF, "55aa"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := openCM4000(&hostileNode{data}, ifd.Options{})
		if err != nil {
			return
		}
		slot := r.Slots()[0]
		raw, err := slot.Reset(t.Context())
		if err != nil {
			return
		}
		a, err := atr.Parse(raw)
		if err != nil {
			return
		}
		e, err := slot.Protocol(t.Context(), proto.Default, a)
		if err != nil {
			return
		}
		resp, err := e.Transmit(t.Context(), unhex("00b0000002"), nil)
		if err == nil && (len(resp) < 2 || len(resp) > proto.MaxResponse) {
			t.Errorf("response of %d bytes", len(resp))
		}
	})
}

func TestCM4000WithoutKernelDriver(t *testing.T) {
	_, err := openCM4000At(t.TempDir()+"/cmm0", ifd.Options{})
	if !errors.Is(err, device.ErrNotFound) {
		t.Errorf("no node: %v", err)
	}
	if _, err := openCM4000At("/dev/null", ifd.Options{}); !errors.Is(err, device.ErrIO) {
		t.Errorf("another device: %v", err)
	}
}
