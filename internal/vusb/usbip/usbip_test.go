package usbip

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/usb"
	"openct/internal/vusb"
)

// echoModel is a device with a vendor request, bulk endpoints 02/82 that echo
// and an interrupt endpoint 81 that is silent until release is closed.
type echoModel struct {
	desc    vusb.Descriptors
	release chan struct{}
	began   chan struct{} // one value for each silent transfer that waits

	mu     sync.Mutex
	resets int
	queue  [][]byte
}

func newEchoModel() *echoModel {
	return &echoModel{
		desc: vusb.Descriptors{
			Device: []byte{18, 1, 0x10, 0x01, 0, 0, 0, 8, 0x34, 0x12, 0x78, 0x56, 0, 1, 1, 2, 0, 1},
			Config: []byte{
				9, 2, 9 + 9 + 3*7, 0, 1, 1, 0, 0x80, 50,
				9, 4, 0, 0, 3, 0xFF, 0, 0, 0,
				7, 5, 0x02, 2, 64, 0, 0,
				7, 5, 0x82, 2, 64, 0, 0,
				7, 5, 0x81, 3, 8, 0, 10,
			},
			Strings: []string{"Åäö", "echo"},
			Speed:   vusb.FullSpeed,
		},
		release: make(chan struct{}),
		began:   make(chan struct{}, maxPending),
	}
}

func (m *echoModel) Descriptors() vusb.Descriptors { return m.desc }

func (m *echoModel) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	switch {
	case s.Request == 0x66:
		return nil, errors.New("broken")
	case s.Request != 0x01:
		return nil, vusb.ErrStall
	case s.In(): // more than asked for, when little is asked for
		return []byte{byte(s.Value), byte(s.Value >> 8), byte(s.Index), byte(s.Index >> 8), byte(length)}, nil
	}
	return nil, m.Out(context.Background(), 2, out)
}

func (m *echoModel) Out(_ context.Context, _ uint8, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, data)
	return nil
}

func (m *echoModel) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	if ep == 0x81 {
		m.began <- struct{}{}
		select {
		case <-m.release:
			return []byte{0x50, 0x03}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return nil, vusb.ErrStall
	}
	data := m.queue[0]
	m.queue = m.queue[1:]
	return data, nil // more than max on purpose, if the test wants a babble
}

func (m *echoModel) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resets++
}

// host is the kernel's side of a USB/IP connection.
type host struct {
	t    *testing.T
	conn net.Conn
	seq  uint32
	end  chan error // serve's result
}

func newHost(t *testing.T, m vusb.Model) *host {
	t.Helper()
	ours, file, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, conn: theirs, end: make(chan error, 1)}
	go func() { h.end <- Serve(context.Background(), ours, m) }()
	t.Cleanup(func() { theirs.Close() })
	return h
}

// reply is a RET_SUBMIT or RET_UNLINK.
type reply struct {
	Command, Seq uint32
	Status       int32
	Actual       int
	Data         string // hex
}

// submit sends a CMD_SUBMIT: ep as an address, setup for endpoint 0 as hex.
func (h *host) submit(ep uint8, length int, setup string, out []byte) uint32 {
	h.t.Helper()
	h.seq++
	h.send(submitMessage(h.seq, ep, length, setup, out))
	return h.seq
}

func (h *host) unlink(victim uint32) uint32 {
	h.t.Helper()
	h.seq++
	m := make([]byte, headerLen)
	binary.BigEndian.PutUint32(m[0:], cmdUnlink)
	binary.BigEndian.PutUint32(m[4:], h.seq)
	binary.BigEndian.PutUint32(m[20:], victim)
	h.send(m)
	return h.seq
}

func (h *host) send(m []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(m); err != nil {
		h.t.Fatal(err)
	}
}

// receive reads an answer, with data if the transfer was an IN.
func (h *host) receive(in bool) reply {
	h.t.Helper()
	var m [headerLen]byte
	if _, err := io.ReadFull(h.conn, m[:]); err != nil {
		h.t.Fatal(err)
	}
	be := binary.BigEndian
	r := reply{Command: be.Uint32(m[0:]), Seq: be.Uint32(m[4:]), Status: int32(be.Uint32(m[20:])), Actual: int(be.Uint32(m[24:]))}
	if in && r.Command == retSubmit {
		data := make([]byte, r.Actual)
		if _, err := io.ReadFull(h.conn, data); err != nil {
			h.t.Fatal(err)
		}
		r.Data = hex.EncodeToString(data)
	}
	return r
}

func submitMessage(seq uint32, ep uint8, length int, setup string, out []byte) []byte {
	m := make([]byte, headerLen)
	be := binary.BigEndian
	be.PutUint32(m[0:], cmdSubmit)
	be.PutUint32(m[4:], seq)
	be.PutUint32(m[8:], vhciDevID)
	s, err := hex.DecodeString(strings.ReplaceAll(setup, " ", ""))
	if err != nil {
		panic(err)
	}
	if ep&0x80 != 0 || (len(s) > 0 && s[0]&0x80 != 0) {
		be.PutUint32(m[12:], dirIn)
	}
	be.PutUint32(m[16:], uint32(ep&0x0F))
	be.PutUint32(m[24:], uint32(length))
	copy(m[40:], s)
	return append(m, out...)
}

func TestTransfers(t *testing.T) {
	tests := []struct {
		name   string
		ep     uint8
		length int
		setup  string // hex, as on the wire
		out    []byte
		status int32
		actual int
		data   string
	}{
		{"device descriptor", 0, 64, "80 06 00 01 00 00 12 00", nil, 0, 18, "120110010000000834127856000101020001"},
		{"device descriptor, 8 bytes", 0, 8, "80 06 00 01 00 00 08 00", nil, 0, 8, "1201100100000008"},
		{"configuration, 9 bytes", 0, 9, "80 06 00 02 00 00 09 00", nil, 0, 9, "090227000101008032"},
		{"languages", 0, 255, "80 06 00 03 00 00 FF 00", nil, 0, 4, "04030904"},
		{"string", 0, 255, "80 06 01 03 09 04 FF 00", nil, 0, 8, "0803c500e400f600"},
		{"string that is not there", 0, 255, "80 06 03 03 09 04 FF 00", nil, statusStall, 0, ""},
		{"second configuration", 0, 9, "80 06 01 02 00 00 09 00", nil, statusStall, 0, ""},
		{"device qualifier", 0, 10, "80 06 00 06 00 00 0A 00", nil, statusStall, 0, ""},
		{"descriptor of an interface", 0, 10, "81 06 00 22 00 00 0A 00", nil, statusStall, 0, ""},
		{"device status", 0, 2, "80 00 00 00 00 00 02 00", nil, 0, 2, "0000"},
		{"configuration before", 0, 1, "80 08 00 00 00 00 01 00", nil, 0, 1, "00"},
		{"set configuration", 0, 0, "00 09 01 00 00 00 00 00", nil, 0, 0, ""},
		{"configuration after", 0, 1, "80 08 00 00 00 00 01 00", nil, 0, 1, "01"},
		{"set configuration 2", 0, 0, "00 09 02 00 00 00 00 00", nil, statusStall, 0, ""},
		{"set interface", 0, 0, "01 0B 00 00 00 00 00 00", nil, 0, 0, ""},
		{"set interface to a setting it has not", 0, 0, "01 0B 01 00 00 00 00 00", nil, statusStall, 0, ""},
		{"set interface that is not there", 0, 0, "01 0B 00 00 01 00 00 00", nil, statusStall, 0, ""},
		{"get interface", 0, 1, "81 0A 00 00 00 00 01 00", nil, 0, 1, "00"},
		{"interface status", 0, 2, "81 00 00 00 00 00 02 00", nil, 0, 2, "0000"},
		{"unknown standard request", 0, 2, "80 0C 00 00 00 00 02 00", nil, statusStall, 0, ""},
		{"vendor request, cut to wLength", 0, 4, "C1 01 34 12 78 56 04 00", nil, 0, 4, "34127856"},
		{"vendor request, short", 0, 9, "C0 01 34 12 78 56 09 00", nil, 0, 5, "3412785609"},
		{"vendor request that stalls", 0, 9, "C0 02 00 00 00 00 09 00", nil, statusStall, 0, ""},
		{"vendor request that fails", 0, 9, "C0 66 00 00 00 00 09 00", nil, statusProto, 0, ""},
		{"vendor request out", 0, 3, "41 01 00 00 00 00 03 00", []byte{7, 8, 9}, 0, 3, ""},
		{"bulk in", 0x82, 64, "", nil, 0, 3, "070809"},
		{"bulk out", 0x02, 2, "", []byte{1, 2}, 0, 2, ""},
		{"bulk in, babble", 0x82, 1, "", nil, statusOverflow, 1, "01"},
		{"bulk in, stall", 0x82, 64, "", nil, statusStall, 0, ""},
		{"bulk out, empty", 0x02, 0, "", nil, 0, 0, ""},
		{"bulk in, still halted", 0x82, 64, "", nil, statusStall, 0, ""},
		{"status of the halted endpoint", 0, 2, "82 00 00 00 82 00 02 00", nil, 0, 2, "0100"},
		{"clear halt", 0, 0, "02 01 00 00 82 00 00 00", nil, 0, 0, ""},
		{"status of the cleared endpoint", 0, 2, "82 00 00 00 82 00 02 00", nil, 0, 2, "0000"},
		{"bulk in, empty", 0x82, 64, "", nil, 0, 0, ""},
		{"set halt", 0, 0, "02 03 00 00 02 00 00 00", nil, 0, 0, ""},
		{"bulk out, halted", 0x02, 1, "", []byte{1}, statusStall, 0, ""},
		{"endpoint that is not there", 0x83, 64, "", nil, statusStall, 0, ""},
		{"status of an endpoint that is not there", 0, 2, "82 00 00 00 84 00 02 00", nil, statusStall, 0, ""},
	}
	h := newHost(t, newEchoModel())
	for _, tt := range tests { // one after the other on one device
		seq := h.submit(tt.ep, tt.length, tt.setup, tt.out)
		in := tt.ep&0x80 != 0 || strings.HasPrefix(tt.setup, "8") || strings.HasPrefix(tt.setup, "C")
		want := reply{Command: retSubmit, Seq: seq, Status: tt.status, Actual: tt.actual, Data: tt.data}
		if diff := cmp.Diff(want, h.receive(in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	h.conn.Close()
	if err := <-h.end; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestShortNotOK(t *testing.T) {
	m := newEchoModel()
	m.queue = [][]byte{{1, 2, 3}}
	h := newHost(t, m)
	cmd := submitMessage(1, 0x82, 64, "", nil)
	binary.BigEndian.PutUint32(cmd[20:], urbShortNotOK)
	h.send(cmd)
	want := reply{Command: retSubmit, Seq: 1, Status: statusShortRead, Actual: 3, Data: "010203"}
	if diff := cmp.Diff(want, h.receive(true)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestReset(t *testing.T) {
	m := newEchoModel()
	h := newHost(t, m)
	h.submit(0, 0, "00 09 01 00 00 00 00 00", nil)
	h.receive(false)
	h.submit(0, 64, "80 06 00 01 00 00 40 00", nil) // Linux's first look after a reset
	h.receive(true)
	h.submit(0, 1, "80 08 00 00 00 00 01 00", nil)
	if r := h.receive(true); r.Data != "00" {
		t.Errorf("configuration %s after a reset", r.Data)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resets != 2 {
		t.Errorf("%d resets, want one at the start and one more", m.resets)
	}
}

func TestUnlink(t *testing.T) {
	m := newEchoModel()
	h := newHost(t, m)
	waiting := h.submit(0x81, 8, "", nil)
	behind := h.submit(0x81, 8, "", nil)
	<-m.began

	// Other endpoints are not held up.
	out := h.submit(0x02, 1, "", []byte{5})
	if r := h.receive(false); r.Seq != out || r.Status != 0 {
		t.Fatalf("bulk out: %+v", r)
	}
	for _, victim := range []uint32{behind, waiting} {
		seq := h.unlink(victim)
		want := reply{Command: retUnlink, Seq: seq, Status: statusUnlinked}
		if diff := cmp.Diff(want, h.receive(false)); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
	// Too late: one that was answered, one that never was.
	for _, victim := range []uint32{out, 4711} {
		seq := h.unlink(victim)
		want := reply{Command: retUnlink, Seq: seq, Status: statusOK}
		if diff := cmp.Diff(want, h.receive(false)); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
	// The endpoint works on.
	seq := h.submit(0x81, 8, "", nil)
	<-m.began
	close(m.release)
	want := reply{Command: retSubmit, Seq: seq, Actual: 2, Data: "5003"}
	if diff := cmp.Diff(want, h.receive(true)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestHangUpEndsTransfers(t *testing.T) {
	m := newEchoModel()
	h := newHost(t, m)
	h.submit(0x81, 8, "", nil)
	<-m.began
	h.conn.Close()
	if err := <-h.end; err != nil { // returns only when no transfer is left
		t.Errorf("serve: %v", err)
	}
}

func TestServeContext(t *testing.T) {
	ours, file, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Serve(ctx, ours, newEchoModel()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestHostileMessages(t *testing.T) {
	patch := func(offset int, v uint32, m []byte) []byte {
		binary.BigEndian.PutUint32(m[offset:], v)
		return m
	}
	silent := func(n int) []byte {
		var m []byte
		for i := range n {
			m = append(m, submitMessage(uint32(i+1), 0x81, 8, "", nil)...)
		}
		return m
	}
	tests := []struct {
		name string
		send []byte
		want error
	}{
		{"unknown command", patch(0, 5, submitMessage(1, 0x82, 64, "", nil)), errMessage},
		{"direction", patch(12, 2, submitMessage(1, 0x82, 64, "", nil)), errMessage},
		{"endpoint", patch(16, 16, submitMessage(1, 0x82, 64, "", nil)), errMessage},
		{"too long", submitMessage(1, 0x02, maxTransfer+1, "", nil), errMessage},
		{"negative length", patch(24, 0xFFFFFFFF, submitMessage(1, 0x02, 0, "", nil)), errMessage},
		{"isochronous", patch(32, 4, submitMessage(1, 0x82, 64, "", nil)), errMessage},
		{"control with the other direction", patch(12, dirOut, submitMessage(1, 0, 4, "C0 01 00 00 00 00 04 00", nil)), errMessage},
		{"control with the other length", submitMessage(1, 0, 4, "40 01 00 00 00 00 03 00", []byte{1, 2, 3, 4}), errMessage},
		{"sequence number twice", append(submitMessage(1, 0x81, 8, "", nil), submitMessage(1, 0x81, 8, "", nil)...), errMessage},
		{"too many at once", silent(maxPending + 1), errMessage},
		{"half a header", make([]byte, 47), io.ErrUnexpectedEOF},
		{"half the data", submitMessage(1, 0x02, 4, "", []byte{1, 2}), io.ErrUnexpectedEOF},
		{"no data", submitMessage(1, 0x02, 4, "", nil), io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &stream{Reader: bytes.NewReader(tt.send)}
			if err := Serve(t.Context(), s, newEchoModel()); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestServeBadDescriptors(t *testing.T) {
	m := newEchoModel()
	m.desc.Config = m.desc.Config[:12] // no interface is whole
	if err := Serve(t.Context(), &stream{Reader: strings.NewReader("")}, m); !errors.Is(err, usb.ErrDescriptor) {
		t.Errorf("got %v", err)
	}
}

// stream is a connection whose host has said all it will say.
type stream struct {
	io.Reader
	bytes.Buffer
}

func (s *stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }
func (s *stream) Close() error               { return nil }

func FuzzUSBIP(f *testing.F) {
	f.Add(submitMessage(1, 0, 18, "80 06 00 01 00 00 12 00", nil))
	f.Add(append(submitMessage(1, 0x02, 2, "", []byte{1, 2}), submitMessage(2, 0x82, 64, "", nil)...))
	f.Add(append(submitMessage(1, 0x81, 8, "", nil), submitMessage(2, 0, 0, "00 09 01 00 00 00 00 00", nil)...))
	f.Add(submitMessage(7, 0, 4, "C1 01 34 12 78 56 04 00", nil)[:47])
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &stream{Reader: bytes.NewReader(in)}
		Serve(context.Background(), s, newEchoModel())
		if len(in) < headerLen && s.Len() > 0 {
			t.Errorf("%d bytes were answered with %d", len(in), s.Len())
		}
		if answers := s.Len(); answers > 0 && answers < headerLen {
			t.Errorf("an answer of %d bytes", answers)
		}
	})
}
