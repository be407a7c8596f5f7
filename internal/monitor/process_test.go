package monitor

import (
	"os/exec"
	"testing"
	"time"
)

func TestProcesses(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	news := make(chan struct{}, 2)
	p := &processes{news: func() { news <- struct{}{} }, open: map[int]*process{}}
	defer p.close()
	if !p.lives(cmd.Process.Pid) || p.lives(0) || p.lives(-1) || p.lives(1<<30) {
		t.Error("who lives is not known")
	}
	in.Close() // it ends; nobody has waited for it yet
	select {
	case <-news:
	case <-time.After(patience):
		t.Fatal("the end of a process is not told")
	}
	if p.lives(cmd.Process.Pid) {
		t.Error("it lives")
	}
	p.keep(nil)
	if p.lives(cmd.Process.Pid) { // a zombie
		t.Error("it lives again")
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
