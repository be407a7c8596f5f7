//go:build linux

// Command cost measures, in the test machine, what a handler costs. It prints a
// line of JSON.
//
//	cost load -reader N -pid PID [-apdu 5:258] [-clients N] [-seconds S] [-calls]
//	cost all [-apdu 5:258] [-seconds S]
//	cost bare -node NODE -driver NAME [-apdu 5:258] [-seconds S] [-clients N]
//	cost cycle -control SOCKET [-n N]
//
// load has clients send APDUs as fast as they are answered, and tells how many
// were, and what that cost the process PID, with its calls to the system if wanted.
// all has one client at each reader there is, and tells what all handlers together
// did and have. bare makes the same transfers on the node and does nothing else, with
// the calls that wait in the kernel: less is not possible. With clients it makes them
// for clients, in one thread, as a program in C would. cycle times openct-control
// attach, and how long the handler stays after the token was pulled.
//
// The card has to be the echo card (openct-vtoken --card echo). An APDU of 5:258
// has 5 bytes and is answered by 258.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/socket"
	"openct/internal/status"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("which of load, all, bare and cycle")
	}
	flags := flag.NewFlagSet("cost "+args[0], flag.ExitOnError)
	reader := flags.Int("reader", 0, "the reader's number")
	pid := flags.Int("pid", 0, "the handler's process")
	sizes := flags.String("apdu", "5:2", "bytes of the command and of the response")
	clients := flags.Int("clients", 0, "clients at a time; 0: one, of bare none")
	seconds := flags.Float64("seconds", 2, "how long")
	traced := flags.Bool("calls", false, "count calls to the system")
	node := flags.String("node", "", "the device node")
	driver := flags.String("driver", "", "the driver's name")
	control := flags.String("control", "", "openct-vtoken's control socket")
	n := flags.Int("n", 5, "how often")
	flags.Parse(args[1:])
	apdu, length, err := echo(*sizes)
	if err != nil {
		return err
	}
	limit := time.Duration(*seconds * float64(time.Second))
	var result any
	switch args[0] {
	case "load":
		result, err = load(*reader, *pid, apdu, length, max(*clients, 1), limit, *traced)
	case "all":
		result, err = all(apdu, length, limit)
	case "bare":
		result, err = bare(*node, *driver, apdu, *sizes, length, *clients, limit)
	case "clients": // of bare
		result, err = inherited(apdu, length, *clients, limit)
	case "cycle":
		result, err = cycle(*control, *n)
	default:
		err = fmt.Errorf("no command %q", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// echo makes the APDU for the echo card, instruction EE.
func echo(sizes string) (apdu []byte, length int, err error) {
	var size int
	if _, err := fmt.Sscanf(sizes, "%d:%d", &size, &length); err != nil || size < 5 || size > 260 || length < 2 || length > 258 {
		return nil, 0, fmt.Errorf("%q: want such as 5:258", sizes)
	}
	apdu = make([]byte, size)
	copy(apdu, []byte{0x00, 0xEE, byte((length - 2) >> 8), byte(length - 2), byte(size - 5)})
	return apdu, length, nil
}

// result is what an amount of APDUs took.
type result struct {
	APDUs     int64   `json:"apdus"`
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu_ms"`   // of the process, an APDU
	Switches  float64 `json:"switches"` // of its threads when they wait, an APDU
	Pushed    float64 `json:"pushed"`   // of its threads when another one's turn comes, an APDU

	// Calls to the system, an APDU, and which.
	Calls   float64            `json:"calls"`
	ByName  map[string]float64 `json:"by_name,omitempty"`
	Monitor float64            `json:"monitor"` // besides: calls of Go's own monitor thread
}

func load(reader, pid int, apdu []byte, length, clients int, limit time.Duration, traced bool) (result, error) {
	ctx := context.Background()
	var all []*socket.Client
	for range clients {
		c, err := socket.DialReader(ctx, socket.Dir(), reader)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		all = append(all, c)
	}
	if _, err := all[0].Reset(ctx, 0); err != nil {
		return result{}, err
	}
	if _, _, err := hurry(all, apdu, length, 0); err != nil {
		return result{}, err
	}
	for range traces {
		r, err := measure(pid, all, apdu, length, limit, traced)
		if !errors.Is(err, errNewThread) {
			return r, err
		}
	}
	return result{}, fmt.Errorf("%w, %d times", errNewThread, traces)
}

// traces is how often calls are counted at most, until all threads were there from
// the beginning.
const traces = 5

// measure has the clients send their APDUs, and tells what that cost the process.
func measure(pid int, clients []*socket.Client, apdu []byte, length int, limit time.Duration, traced bool) (result, error) {
	var calls *tracing
	if traced {
		var err error
		if calls, err = trace(pid); err != nil {
			return result{}, err
		}
		defer calls.stop()
	}
	before := spent(pid)
	n, took, err := hurry(clients, apdu, length, limit)
	if err != nil {
		return result{}, err
	}
	r := spent(pid).since(before).each(n, took)
	if traced {
		err = calls.count(&r)
	}
	return r, err
}

// hurry has each client send the APDU once, and again until the time is over, and
// returns how many were answered in what time.
func hurry(clients []*socket.Client, apdu []byte, length int, limit time.Duration) (n int64, took time.Duration, err error) {
	ctx := context.Background()
	var done atomic.Int64
	failed := make(chan error, len(clients))
	var wg sync.WaitGroup
	begin := time.Now()
	for _, c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for first := true; first || time.Since(begin) < limit; first = false {
				resp, err := c.Transact(ctx, 0, apdu)
				if err == nil && len(resp) != length {
					err = fmt.Errorf("%d bytes came, want %d", len(resp), length)
				}
				if err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		}()
	}
	wg.Wait()
	took = time.Since(begin)
	select {
	case err := <-failed:
		return 0, 0, err
	default:
		return done.Load(), took, nil
	}
}

// costs are what a process has used up.
type costs struct{ cpu, switches, pushed float64 }

// spent reads them from /proc: nanoseconds of all threads and their switches.
func spent(pid int) (c costs) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		if b, err := os.ReadFile(task + "/schedstat"); err == nil {
			var ns float64
			fmt.Sscan(string(b), &ns)
			c.cpu += ns
		}
		b, _ := os.ReadFile(task + "/status")
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			n, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			switch name {
			case "voluntary_ctxt_switches":
				c.switches += n
			case "nonvoluntary_ctxt_switches":
				c.pushed += n
			}
		}
	}
	return c
}

func (c costs) and(other costs) costs {
	return costs{c.cpu + other.cpu, c.switches + other.switches, c.pushed + other.pushed}
}

func (c costs) since(before costs) costs {
	return costs{c.cpu - before.cpu, c.switches - before.switches, c.pushed - before.pushed}
}

func (c costs) each(n int64, took time.Duration) result {
	f := max(float64(n), 1)
	return result{APDUs: n, PerSecond: f / took.Seconds(), CPU: c.cpu / 1e6 / f, Switches: c.switches / f, Pushed: c.pushed / f}
}

// cycle plugs the token, attaches it by hand, and pulls it.
func cycle(control string, n int) (map[string]float64, error) {
	var ready, gone []float64
	for range n {
		at, err := order(control, "plug")
		if err != nil {
			return nil, err
		}
		var plugged struct{ DevNode string }
		if err := json.Unmarshal([]byte(at), &plugged); err != nil {
			return nil, fmt.Errorf("openct-vtoken says %q: %w", at, err)
		}
		begin := time.Now()
		if out, err := exec.Command("openct-control", "attach", plugged.DevNode).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("openct-control attach %s: %w: %s", plugged.DevNode, err, out)
		}
		ready = append(ready, ms(begin))
		pid, err := handler(plugged.DevNode)
		if err != nil {
			return nil, err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, err
		}
		begin = time.Now()
		if _, err := order(control, "unplug"); err != nil {
			return nil, err
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil {
			return nil, err
		}
		gone = append(gone, ms(begin))
		unix.Close(fd)
	}
	return map[string]float64{"attach_ms": median(ready), "gone_ms": median(gone)}, nil
}

func ms(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// order gives openct-vtoken an order and returns what it says after "ok".
func order(control, text string) (string, error) {
	c, err := net.Dial("unix", control)
	if err != nil {
		return "", err
	}
	defer c.Close()
	fmt.Fprintln(c, text)
	answer, err := bufio.NewReader(c).ReadString('\n')
	rest, ok := strings.CutPrefix(strings.TrimSpace(answer), "ok")
	if !ok {
		return "", fmt.Errorf("%s: %q, %w", text, answer, err)
	}
	return strings.TrimSpace(rest), nil
}

// handler is the process that serves a node.
func handler(node string) (int, error) {
	files, _ := filepath.Glob(filepath.Join(socket.Dir(), ".*.json"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if d, err := status.DecodeDetail(b); err == nil && d.Device == node {
			return d.PID, nil
		}
	}
	return 0, fmt.Errorf("nobody serves %s", node)
}

var quiet = slog.New(slog.DiscardHandler)
