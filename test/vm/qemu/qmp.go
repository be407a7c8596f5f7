package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpTimeout bounds one monitor command; the longest takes milliseconds.
const qmpTimeout = 30 * time.Second

// qmp is QEMU's monitor protocol: JSON commands and replies, and events in
// between, which nobody here needs.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	enc  *json.Encoder
	dec  *json.Decoder
}

func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, enc: json.NewEncoder(conn), dec: json.NewDecoder(conn)}
	conn.SetDeadline(time.Now().Add(qmpTimeout))
	var greeting struct{ QMP *json.RawMessage }
	if err := q.dec.Decode(&greeting); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QMP greeting: %w", err)
	}
	if greeting.QMP == nil {
		conn.Close()
		return nil, errors.New("QMP greeting is missing")
	}
	if _, err := q.run("qmp_capabilities", nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) run(command string, arguments map[string]any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conn.SetDeadline(time.Now().Add(qmpTimeout))
	req := map[string]any{"execute": command}
	if arguments != nil {
		req["arguments"] = arguments
	}
	if err := q.enc.Encode(req); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	for {
		var rep struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
			Event  string
		}
		if err := q.dec.Decode(&rep); err != nil {
			return nil, fmt.Errorf("QMP %s: %w", command, err)
		}
		switch {
		case rep.Event != "":
		case rep.Error != nil:
			return nil, fmt.Errorf("QMP %s: %s", command, rep.Error.Desc)
		default:
			return rep.Return, nil
		}
	}
}

func (q *qmp) close() { q.conn.Close() }
