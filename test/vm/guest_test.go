//go:build vm

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openct/test/vm/agent"
	"openct/test/vm/qemu"
)

// guest is the booted machine.
type guest struct {
	config    qemu.Config
	artefacts string

	machine *qemu.Machine // of this boot
	client  *agent.Client
}

// bootTime is how long the guest may take until its agent answers. Software
// emulation on two busy cores needs half a minute.
const bootTime = 5 * time.Minute

// boot starts the machine and waits for its agent.
func (g *guest) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	machine, err := qemu.Start(ctx, g.config)
	if err != nil {
		return err
	}
	g.machine, g.client = machine, agent.NewClient(machine.Agent)
	if err := g.client.Sync(ctx); err != nil {
		machine.Close()
		return fmt.Errorf("no agent after boot (see %s): %w", g.artefacts, err)
	}
	return g.unpack(ctx)
}

func (g *guest) close() { g.machine.Close() }

// unpack lays out the package under test beside the system, for the programs
// that a case needs before or after it is installed.
func (g *guest) unpack(ctx context.Context) error {
	res, err := g.client.Run(ctx, "set -- /run/e2e/debs/openct_*.deb; test -e \"$1\" && rm -rf /run/e2e/under-test && dpkg-deb -x \"$1\" /run/e2e/under-test", nil, scriptTime)
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("no package under test (make deb): %s", res.Stderr)
	}
	return err
}

// scriptTime is how long a command of a case may take. Under software
// emulation a command costs some tenths of a second; what is not over by now
// hangs.
const scriptTime = 2 * time.Minute

// try runs a script in the guest and returns what it printed and its exit code.
func (g *guest) try(t testing.TB, script string) agent.Result {
	t.Helper()
	return g.tryFor(t, scriptTime, script)
}

func (g *guest) tryFor(t testing.TB, limit time.Duration, script string) agent.Result {
	t.Helper()
	res, err := g.client.Run(context.Background(), script, nil, limit)
	if err != nil {
		t.Fatalf("%s\n%s%s%v%s", script, res.Stdout, res.Stderr, err, g.ended())
	}
	return res
}

// sh runs a script that must succeed and returns its stdout without the last
// newline.
func (g *guest) sh(t testing.TB, script string) string {
	t.Helper()
	res := g.try(t, script)
	if res.Exit != 0 {
		t.Fatalf("%s\n%s%sexit code %d", script, res.Stdout, res.Stderr, res.Exit)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// reaches waits until a unit is in a state, which systemd tells. One that is to
// be active and fails is not waited for any longer.
func (g *guest) reaches(t testing.TB, limit time.Duration, unit, state string) {
	t.Helper()
	states := []string{state}
	if state == "active" {
		states = append(states, "failed")
	}
	got, err := g.client.Unit(context.Background(), unit, limit, states...)
	if err != nil {
		t.Fatal(err)
	}
	if got != state {
		t.Fatalf("%s is %s, want %s:\n%s", unit, got, state, g.try(t, "systemctl status --no-pager --full '"+unit+"'").Stdout)
	}
}

// until waits until a script succeeds, and returns what it printed then. The
// guest itself asks again and again: it is for what nobody tells.
func (g *guest) until(t testing.TB, limit time.Duration, script string) string {
	t.Helper()
	loop := fmt.Sprintf("end=$(($(date +%%s) + %d)); while :; do\n out=$( (%s) 2>&1) && { printf '%%s' \"$out\"; exit 0; }\n"+
		" [ $(date +%%s) -lt $end ] || { printf '%%s\\n' \"$out\" >&2; exit 1; }; sleep 0.2\ndone", int(limit.Seconds()+0.5), script)
	res, err := g.client.Run(context.Background(), loop, nil, limit+30*time.Second)
	switch {
	case err != nil:
		t.Fatalf("until: %s\n%s%v", script, res.Stderr, err)
	case res.Exit != 0:
		t.Fatalf("not within %v: %s\n%s", limit, script, res.Stderr)
	}
	return res.Stdout
}

// put writes a file in the guest.
func (g *guest) put(t testing.TB, path string, mode uint32, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := g.client.Put(ctx, path, mode, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// reboot restarts the guest's system and waits until its agent is there again.
func (g *guest) reboot(t testing.TB) {
	t.Helper()
	// The agent may be stopped before it can tell how the command ended.
	res, err := g.client.Run(context.Background(), "systemctl reboot --no-block", nil, scriptTime)
	if err == nil && res.Exit != 0 {
		t.Fatalf("systemctl reboot: %s", res.Stderr)
	}
	select {
	case <-g.machine.Exited():
	case <-time.After(2 * time.Minute):
		t.Errorf("the guest does not go down (systemctl reboot: %v)", err)
	}
	g.close()
	if err := g.boot(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// journalFrom returns what the guest's journal has said since an offset, and
// the offset of its end.
func (g *guest) journalFrom(offset int) (string, int) {
	data, err := os.ReadFile(filepath.Join(g.artefacts, "journal.log"))
	if err != nil || offset > len(data) {
		return "", len(data)
	}
	return string(data[offset:]), len(data)
}

// keepJournal leaves the journal of a case that fails as an artefact. Called
// at its begin.
func (g *guest) keepJournal(t *testing.T) {
	_, begin := g.journalFrom(0)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		text, _ := g.journalFrom(begin)
		name := filepath.Join(g.artefacts, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+".journal")
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Errorf("journal: %v", err)
		}
		t.Logf("journal kept: %s", name)
	})
}

// alive fails everything that follows when QEMU itself has ended.
func (g *guest) alive() error {
	if text := g.ended(); text != "" {
		return errors.New(text)
	}
	return nil
}

// ended tells how QEMU has ended, and its own and the console's last words; it
// is empty while QEMU runs.
func (g *guest) ended() string {
	limit := time.Duration(0)
	if g.client.Err() != nil { // its port was closed, so it is about to end
		limit = 10 * time.Second
	}
	select {
	case <-g.machine.Exited():
	case <-time.After(limit):
		if limit == 0 {
			return ""
		}
		return "\nthe guest's port is closed, but the machine runs"
	}
	text := fmt.Sprintf("\nthe machine has ended: %v", g.machine.Err())
	for _, name := range []string{"qemu.log", "console.log"} {
		data, err := os.ReadFile(filepath.Join(g.artefacts, name))
		if err == nil {
			text += fmt.Sprintf("\n%s: %q", name, data[max(0, len(data)-2000):])
		}
	}
	return text
}
