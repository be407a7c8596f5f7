// Package sockettest plays recorded conversations with C OpenCT's handler
// against ours and compares every byte.
//
// A recording has one JSON object per line: scenario, step, client (which
// connection), dir (request or answer), hex, event, meaning. Where ours
// answers differently on purpose, an Exception says so, with the reason; one
// that is not needed is an error.
package sockettest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"openct/internal/socket"
)

// patience is how long an answer may take before the test is given up.
const patience = 30 * time.Second

// OwnUser is the uid a Dialer gets for a client of the user who runs the test.
const OwnUser = -1

// Dialer connects a client of the recording as the user with this uid, or as
// OwnUser.
type Dialer func(client string, uid int) (net.Conn, error)

// Exception is one answer that differs from the recorded one on purpose.
type Exception struct {
	Scenario string
	Step     int
	Want     string // hex of our answer; empty: none at this step
	Why      string // the habit of C OpenCT that ours does not have
}

type line struct {
	Scenario string `json:"scenario"`
	Step     int    `json:"step"`
	Client   string `json:"client"`
	Dir      string `json:"dir"`
	Hex      string `json:"hex"`
	Event    string `json:"event"`
	Meaning  string `json:"meaning"`
}

// Play plays file against the socket that dial connects to, which must serve a fresh
// reader. Users has a Dialer for clients of several users.
func Play(t *testing.T, file string, dial Dialer, exceptions []Exception) {
	t.Helper()
	lines, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	type step struct {
		scenario string
		step     int
	}
	except := make(map[step]*Exception)
	used := make(map[step]bool)
	for i := range exceptions {
		e := &exceptions[i]
		if e.Why == "" {
			t.Errorf("exception %s/%d has no reason", e.Scenario, e.Step)
		}
		except[step{e.Scenario, e.Step}] = e
	}
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && lines[n].Scenario == lines[0].Scenario {
			n++
		}
		scenario := lines[:n]
		lines = lines[n:]
		ok := t.Run(scenario[0].Scenario, func(t *testing.T) {
			p := player{t: t, dial: dial, conns: make(map[string]net.Conn)}
			defer p.finish()
			for i := range scenario {
				l := &scenario[i]
				k := step{l.Scenario, l.Step}
				if e := except[k]; e != nil {
					used[k] = true
					if l.Dir != "answer" {
						t.Fatalf("step %d: an exception for something that is no answer", l.Step)
					}
					if l.Hex == e.Want && l.Event == "" {
						t.Errorf("step %d: the exception is what is recorded", l.Step)
					}
					changed := *l
					changed.Hex, changed.Event = e.Want, ""
					if e.Want == "" {
						changed.Event = "none"
					}
					l = &changed
				}
				p.play(l)
			}
		})
		if !ok {
			return // the next one builds upon it: lock handles, the card's state
		}
	}
	for k := range except {
		if !used[k] {
			t.Errorf("exception %s/%d: there is no such step", k.scenario, k.step)
		}
	}
}

func load(file string) ([]line, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []line
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, len(lines)+1, err)
		}
		lines = append(lines, l)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s is empty", file)
	}
	return lines, nil
}

type player struct {
	t     *testing.T
	dial  Dialer
	conns map[string]net.Conn
}

func (p *player) play(l *line) {
	t := p.t
	t.Helper()
	uid := OwnUser
	asUser, _ := fmt.Sscanf(l.Event, "connects as user %d", &uid)
	nc := p.conns[l.Client]
	switch {
	case l.Event == "begin":
	case l.Event == "connects", asUser == 1:
		nc, err := p.dial(l.Client, uid)
		if err != nil {
			t.Fatalf("step %d: client %s cannot connect: %v", l.Step, l.Client, err)
		}
		p.conns[l.Client] = nc
		if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	case nc == nil:
		t.Fatalf("step %d: client %q is not connected", l.Step, l.Client)
	case l.Event == "closes":
		nc.Close()
		delete(p.conns, l.Client)
	case strings.HasPrefix(l.Event, "closes its sending side"):
		if err := halfClose(nc); err != nil {
			t.Fatalf("step %d: %v", l.Step, err)
		}
	case l.Dir == "request":
		if _, err := nc.Write(p.bytes(l)); err != nil {
			t.Fatalf("step %d: %s: %v", l.Step, l.Meaning, err)
		}
	case l.Dir == "answer" && l.Hex != "":
		want := p.bytes(l)
		got, err := readPacket(nc)
		if !bytes.Equal(got, want) {
			t.Fatalf("step %d: client %s: %s\n got %x\nwant %x (%v)", l.Step, l.Client, l.Meaning, got, want, err)
		}
	case strings.HasPrefix(l.Event, "handler closed"):
		if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("step %d: read %d bytes, %v; the handler should have closed the connection", l.Step, n, err)
		}
	case strings.HasPrefix(l.Event, "none"):
		// finish sees that nothing came
	default:
		t.Fatalf("step %d: what is %+v?", l.Step, *l)
	}
}

// readPacket returns what came of the next packet.
func readPacket(nc net.Conn) ([]byte, error) {
	b := make([]byte, socket.HeaderSize)
	if n, err := io.ReadFull(nc, b); err != nil {
		return b[:n], err
	}
	payload := make([]byte, socket.ParseHeader(b).Count)
	n, err := io.ReadFull(nc, payload)
	return append(b, payload[:n]...), err
}

func (p *player) bytes(l *line) []byte {
	p.t.Helper()
	b, err := hex.DecodeString(l.Hex)
	if err != nil || len(b) == 0 {
		p.t.Fatalf("step %d: bad hex %q", l.Step, l.Hex)
	}
	return b
}

// finish sees that no client has an answer that nobody expected.
func (p *player) finish() {
	for name, nc := range p.conns {
		if !p.t.Failed() {
			if err := halfClose(nc); err != nil {
				p.t.Errorf("client %s: %v", name, err)
			}
			rest, err := io.ReadAll(nc)
			if err != nil || len(rest) > 0 {
				p.t.Errorf("client %s: %d bytes too many at the end (%x), %v", name, len(rest), rest, err)
			}
		}
		nc.Close()
	}
}

func halfClose(nc net.Conn) error {
	hc, ok := nc.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T cannot close its sending side", nc)
	}
	if err := hc.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
