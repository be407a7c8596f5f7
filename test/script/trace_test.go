package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// line is a command line of testdata/cli.jsonl: what C OpenCT 0.6.21 printed and
// how it ended. {DIR} stands for the directory of status file and sockets, {NODE}
// for the token's node, {USAGE} for a program's usage.
type line struct {
	State   string `json:"state"`
	Command string `json:"command"`
	Exit    int    `json:"exit"`
	Stdout  string `json:"stdout"`
}

// didNotEnd is the exit status of a command that went on waiting: timeout(1)'s.
const didNotEnd = 124

// token is what stands for the recorded token, an eToken PRO 64k with the same
// card behind it.
const token = "etoken64 virtual echo"

// prepare brings about the states that take more than the recorded commands
// themselves. Each command must succeed.
var prepare = map[string][]string{
	"token unplugged":                                  {"openct-control shutdown", "openct-control -n init"},
	"token attached by driver name":                    {},
	"reader process killed with SIGKILL":               {"signal KILL 0"},
	"reader process killed with SIGTERM":               {"signal TERM 0"},
	"init with a token plugged in finds it (coldplug)": {"openct-control -n init", "openct-control attach " + token},
	"cleaned up, as an ordinary user":                  {"openct-control -n init", "openct-control attach " + token},
	"fourteen tokens at once":                          {"fourteen"},
}

// different are the command lines that end or print otherwise here, and why.
// The key is state, bar and command; a state alone stands for all of it.
var different = map[string]difference{
	"OpenCT not initialised: no status file|openct-control -n": {
		why:  "-n is in C OpenCT's help but not understood; here it is: then what is missing is a command",
		exit: 1,
	},
	"OpenCT not initialised: no status file|ifdhandler -i": {
		why:      "the drivers are ours, in the order in which they are tried; C OpenCT's form is compared in usage.txtar",
		anything: true,
	},
	"OpenCT not initialised: no status file|openct-control attach usb:529/600/100 usb /dev/bus/usb/099/099": {
		why:  attachTells,
		exit: 1,
	},
	"after init, no reader|openct-control attach usb:529/600/100 usb /dev/bus/usb/099/099": {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach usb:529 usb /dev/bus/usb/099/099":         {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach nosuchdriver usb /dev/bus/usb/099/099":    {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach etoken64 serial /dev/null":                {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach etoken64 foo /dev/null":                   {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach etoken64 usb /dev/null":                   {why: attachTells, exit: 1},
	"after init, no reader|openct-control attach usb:1234/5678/1 usb /dev/bus/usb/099/099": {why: attachTells, exit: 1},
	"token attached|openct-tool -s 1 atr": {
		why:    "C OpenCT takes the slot just past the last one for a slot",
		exit:   1,
		stdout: "Detected Aladdin eToken PRO 64k\n",
	},
	"reader process killed with SIGTERM|stat -c '%A %s %n' {DIR}/*": {
		why:    "a handler that ends takes its socket along",
		stdout: "-rw-r--r-- 1728 {DIR}/status\n",
	},
	"token unplugged|stat -c '%A %s %n' {DIR}/*": {
		why:    "a handler that ends takes its socket along",
		stdout: "-rw-r--r-- 1728 {DIR}/status\n",
	},
	"shutdown with a token attached|stat -c '%A %s %n' {DIR}/*": {
		why:  "the handlers take their sockets along; stat has nothing to look at",
		exit: 1,
	},
	"init a second time while a reader is served|openct-control status": {
		why:    "init keeps the status file, running readers stay in it",
		stdout: oneToken,
	},
	"init a second time while a reader is served|openct-control shutdown": {
		why:    "and can be stopped",
		stdout: "1 process killed.\n",
	},
	"cleaned up, as an ordinary user|setpriv --reuid=1001 --clear-groups openct-control init": {
		why:  "what was not done is not a success",
		exit: 1,
	},
	"cleaned up, as an ordinary user|setpriv --reuid=1001 --clear-groups openct-control attach usb:529/600/100 usb {NODE}": {
		why:  attachTells,
		exit: 1,
	},
	"cleaned up, as an ordinary user|setpriv --reuid=1001 --clear-groups openct-control shutdown": {
		why:  "what was not done is not a success",
		exit: 1, stdout: "0 processes killed.\n",
	},
	"with a configuration file that cannot be parsed|openct-control -f {BADCONF} status": {
		why:    "a statement with an error is told and skipped; the rest of the file counts, and readers are served",
		stdout: oneToken,
	},
	"fourteen tokens at once|openct-control status": {
		why:      "the heading comes once, not before each reader; start-stop.txtar has the form",
		anything: true,
	},
}

const attachTells = "attach waits for the handler, and fails when that does"

const oneToken = "No.   Name                         Info\n" +
	"===================================================\n" +
	"  0   Aladdin eToken PRO 64k       slot0: card present\n"

// leftOut are command lines that say nothing about this implementation.
var leftOut = map[string]string{
	"token attached|ps -o args= -C ifdhandler":                             "looks at all processes of the machine",
	"shutdown with a token attached|pidof ifdhandler":                      "looks at all processes of the machine",
	"init a second time while a reader is served|pidof ifdhandler | wc -w": "looks at all processes of the machine",
	"token attached, the same device attached again|openct-control attach usb:529/600/100 usb {NODE}": "every virtual " +
		"token is a device of its own; internal/daemon and internal/control test the second attach, and the virtual machine does",
	"init with a token plugged in finds it (coldplug)|openct-control init": "needs USB; the virtual machine tests it",
}

type difference struct {
	why      string
	exit     int
	stdout   string
	anything bool // whatever is printed
}

// The command lines that were recorded from C OpenCT end as they did, and print
// to standard output what they did, unless a difference is named above.
func TestRecordedCommandLines(t *testing.T) {
	t.Parallel()
	useSources(t)
	lines := readLines(t)
	w := &world{}
	// Others must be able to get there, as they are to /run/openct.
	dir, err := os.MkdirTemp("", "openct-trace-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.dir = filepath.Join(dir, "run")
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.conf")
	if err := os.WriteFile(bad, []byte("reader {\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
	r := &replay{world: w, names: strings.NewReplacer("{DIR}", w.dir, "{BADCONF}", bad,
		"usb:529/600/100 usb {NODE}", token, "usb {NODE}", strings.TrimPrefix(token, "etoken64 "),
		// init must not find what is plugged into the machine that runs this.
		"openct-control init", "openct-control -n init"),
		used: map[string]bool{}}

	state := ""
	for _, l := range lines {
		if strings.Contains(l.Command, "setpriv") && os.Geteuid() != 0 {
			r.used[l.State+"|"+l.Command] = true
			continue // only root can become somebody else
		}
		if l.State != state {
			state = l.State
			for _, c := range prepare[state] {
				r.prepare(t, c)
			}
		}
		key := l.State + "|" + l.Command
		if leftOut[key] != "" {
			r.used[key] = true
			continue
		}
		t.Run(key, func(t *testing.T) { r.play(t, key, l) })
	}
	for key := range different {
		if !r.used[key] {
			t.Errorf("difference %q: no such command line", key)
		}
	}
	for key := range leftOut {
		if !r.used[key] {
			t.Errorf("left out %q: no such command line", key)
		}
	}
}

type replay struct {
	world *world
	names *strings.Replacer
	used  map[string]bool
}

func (r *replay) prepare(t *testing.T, command string) {
	t.Helper()
	words := strings.Fields(command)
	switch words[0] {
	case "signal":
		if err := r.world.signal(words[1], words[2]); err != nil {
			t.Fatal(err)
		}
		return
	case "fourteen":
		for range 13 { // besides the one that is there
			r.prepare(t, "ifdhandler "+token)
		}
		return
	}
	if stdout, exit := r.run(t, command); exit != 0 {
		t.Fatalf("%s: exit %d\n%s", command, exit, stdout)
	}
	if strings.Contains(command, "shutdown") {
		r.gone(t)
	}
}

// gone sees that the handlers have ended.
func (r *replay) gone(t *testing.T) {
	t.Helper()
	if err := r.world.handlers("0"); err != nil {
		t.Fatal(err)
	}
}

func (r *replay) play(t *testing.T, key string, l line) {
	exit, stdout := l.Exit, l.Stdout
	d, ok := different[key]
	if ok {
		exit, stdout = d.exit, d.stdout
		r.used[key] = true
	}
	command := l.Command
	if exit == didNotEnd {
		command = "timeout 1 " + command
	}
	gotOut, gotExit := r.run(t, command)
	if strings.HasSuffix(l.Command, "shutdown") && !strings.Contains(l.Command, "setpriv") {
		r.gone(t)
	}
	if gotExit != exit {
		t.Errorf("exit %d, want %d", gotExit, exit)
	}
	if d.anything {
		return
	}
	want := strings.ReplaceAll(stdout, "{DIR}", r.world.dir)
	switch {
	case want == "{USAGE}\n" && gotOut != "":
		want = gotOut // the text is ours
	case strings.HasPrefix(want, "OpenCT ") && strings.HasPrefix(gotOut, "OpenCT "):
		want = gotOut // so is the version
	}
	if diff := cmp.Diff(want, gotOut); diff != "" {
		t.Errorf("standard output (-want +got):\n%s", diff)
	}
}

// run runs a command line with the shell.
func (r *replay) run(t *testing.T, command string) (stdout string, exit int) {
	t.Helper()
	command = r.names.Replace(command)
	var out, errs bytes.Buffer
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "OPENCT_SOCKETDIR="+r.world.dir)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var status *exec.ExitError
	switch {
	case errors.As(err, &status):
		exit = status.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", command, err)
	}
	t.Logf("$ %s\n%s%s", command, &out, &errs)
	return out.String(), exit
}

func readLines(t *testing.T) []line {
	t.Helper()
	b, err := os.ReadFile("testdata/cli.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for dec := json.NewDecoder(bytes.NewReader(b)); dec.More(); {
		var l line
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}
