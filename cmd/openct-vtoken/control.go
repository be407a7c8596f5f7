package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"openct/internal/socket"
	"openct/internal/vusb"
)

const (
	maxOrder = 1024 // bytes of an order or an answer

	// orderPatience bounds how long a caller may take over its line.
	orderPatience = 10 * time.Second
)

// The protocol: the caller sends an order as a line, gets an answer as a
// line, "ok ..." or "error ...", and the connection is over.

// listen makes the control socket, for its owner alone. A socket that a
// killed process left behind is replaced; one that is served is not, and neither
// is any other file.
func listen(path string) (net.Listener, error) {
	switch st, err := os.Lstat(path); {
	case err == nil && st.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("control socket: %s exists and is not a socket", path)
	case err == nil:
		if conn, err := dial(path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("control socket: another program uses %s", path)
		}
	}
	l, err := socket.Listen(path, socket.ListenOptions{Mode: 0o600, UID: -1, GID: -1})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// serve takes orders until ctx ends.
func serve(ctx context.Context, l net.Listener, t *token) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
		calls.Add(1)
		go func() {
			defer calls.Done()
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(orderPatience))
			hurry := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
			defer hurry()
			order, err := readLine(conn)
			if err != nil {
				return
			}
			answer, err := t.order(ctx, order)
			if err != nil {
				answer = "error " + err.Error()
			} else {
				answer = strings.TrimSpace("ok " + answer)
			}
			conn.SetWriteDeadline(time.Now().Add(orderPatience))
			fmt.Fprintln(conn, strings.ReplaceAll(answer, "\n", "; "))
		}()
	}
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxOrder)).ReadString('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// dial connects to the control socket. (net.Dial does so as well, and would link
// the resolver of host names.)
func dial(path string) (net.Conn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// call gives one order to the token behind the socket and returns the answer.
func call(path, order string) (string, error) {
	conn, err := dial(path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(plugPatience + orderPatience))
	if _, err := fmt.Fprintln(conn, order); err != nil {
		return "", err
	}
	line, err := readLine(conn)
	if err != nil {
		return "", fmt.Errorf("no answer from %s: %w", path, err)
	}
	if text, failed := strings.CutPrefix(line, "error "); failed {
		return "", errors.New(text)
	}
	answer := strings.TrimSpace(strings.TrimPrefix(line, "ok"))
	if answer == "" {
		answer = "ok"
	}
	return answer, nil
}

// order carries out one order.
func (t *token) order(ctx context.Context, line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", errors.New("the order is empty")
	}
	if len(words) == 1 {
		switch words[0] {
		case "plug":
			if err := t.plug(ctx); err != nil {
				return "", err
			}
			return t.status(), nil
		case "unplug":
			return "", t.unplug()
		case "heal":
			return "", t.heal()
		case "remove":
			return "", t.insert(false)
		case "insert":
			return "", t.insert(true)
		case "status":
			return t.status(), nil
		}
	}
	f, err := parseFault(words)
	if err != nil {
		return "", err
	}
	if words[0] == "remove" {
		f.Do = func() { t.insert(false) }
	}
	return "", t.inject(f)
}

func (t *token) status() string {
	as, in := t.state()
	if !in {
		return "unplugged"
	}
	b, err := json.Marshal(as)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// maxAnswer bounds the nonsense of "garbage".
const maxAnswer = 1 << 16

// parseFault reads an order that is a fault: its word, its number if it has
// one, which transfer, and the settings with "=".
func parseFault(words []string) (vusb.Fault, error) {
	var f vusb.Fault
	var numbers []int
	for _, w := range words[1:] {
		switch key, value, setting := strings.Cut(w, "="); {
		case !setting:
			n, err := strconv.Atoi(w)
			if err != nil || n < 0 || n > 1<<20 {
				return f, fmt.Errorf("%s: %q is not a number", words[0], w)
			}
			numbers = append(numbers, n)
		case key == "times":
			n, err := strconv.Atoi(value)
			if err != nil || n == 0 || n < -1 {
				return f, fmt.Errorf("times=%s: want a count, or -1", value)
			}
			f.Times = n
		case key == "on":
			on, err := parseTransfer(value)
			if err != nil {
				return f, err
			}
			f.On = on
		default:
			return f, fmt.Errorf("%s: unknown setting %q", words[0], w)
		}
	}

	amount := 0
	switch words[0] {
	case "delay", "short", "garbage":
		if len(numbers) == 0 {
			return f, fmt.Errorf("%s needs a number", words[0])
		}
		amount, numbers = numbers[0], numbers[1:]
	}
	switch words[0] {
	case "stall":
		f.Stall = true
	case "hang":
		f.Hang = true
	case "drop":
		f.Unplug = true
	case "remove": // is the caller's
	case "delay":
		f.Delay = time.Duration(amount) * time.Millisecond
	case "short":
		f.Mangle = vusb.Short(amount)
	case "garbage":
		f.Mangle = vusb.Garbage(min(amount, maxAnswer))
	default:
		return f, fmt.Errorf("unknown order %q", words[0])
	}
	switch {
	case len(numbers) > 1:
		return f, fmt.Errorf("%s: too many numbers", words[0])
	case len(numbers) == 1 && numbers[0] == 0:
		return f, fmt.Errorf("%s: transfers count from 1", words[0])
	case len(numbers) == 1:
		f.Skip = numbers[0] - 1
	}
	return f, nil
}

// parseTransfer reads "c86", a control request, or "e82", an endpoint.
func parseTransfer(text string) (vusb.Transfer, error) {
	var t vusb.Transfer
	if text != "" {
		code, err := strconv.ParseUint(text[1:], 16, 8)
		if (text[0] == 'c' || text[0] == 'e') && err == nil {
			return vusb.Transfer{Control: text[0] == 'c', Code: uint8(code)}, nil
		}
	}
	return t, fmt.Errorf("on=%s: want c and a bRequest, or e and an endpoint address, in hexadecimal", text)
}
