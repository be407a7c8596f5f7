package control

import (
	"os/user"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A handler that root starts is the directory's owner.
func TestAsOwner(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	mine, err := credentialOf(me)
	if err != nil {
		t.Fatal(err)
	}
	configured := &syscall.Credential{Gid: 77, Groups: []uint32{78}} // root, with groups of openct.conf
	tests := []struct {
		name string
		dir  unix.Stat_t
		cred *syscall.Credential
		want *syscall.Credential
	}{
		{"root's directory", unix.Stat_t{Uid: 0, Gid: 4243}, nil, nil},
		{"root's directory, groups of openct.conf", unix.Stat_t{Uid: 0, Gid: 4243}, configured, configured},
		{"a user's", unix.Stat_t{Uid: mine.Uid, Gid: 4243}, nil, mine},
		{"a user's without a name", unix.Stat_t{Uid: 4242, Gid: 4243}, nil, &syscall.Credential{Uid: 4242, Gid: 4243}},
		{"a user's, groups of openct.conf", unix.Stat_t{Uid: 4242, Gid: 4243}, configured, &syscall.Credential{Uid: 4242, Gid: 77, Groups: []uint32{78}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.dir.Uid == mine.Uid && mine.Uid == 0 {
				tt.want = tt.cred // the test runs as root, whose directory leaves all as it is
			}
			got, err := asOwner(tt.dir, tt.cred)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The handler has users 500 and groups 500 and 501.
func TestWayTo(t *testing.T) {
	tests := []struct {
		name     string
		uid, gid uint32
		mode     uint32
		want     way
	}{
		{"Debian's serial port", 0, 20, unix.S_IFCHR | 0o660, byGroup},
		{"a token with OpenCT's rule", 0, 501, unix.S_IFCHR | 0o660, asIs},
		{"its primary group", 0, 500, unix.S_IFCHR | 0o660, asIs},
		{"everybody may", 0, 0, unix.S_IFCHR | 0o666, asIs},
		{"a USB device without a rule", 0, 0, unix.S_IFCHR | 0o664, byOwner},
		{"root's group may", 0, 0, unix.S_IFCHR | 0o660, byOwner},
		{"the group may only read", 0, 20, unix.S_IFCHR | 0o640, byOwner},
		{"its own group may only read", 0, 501, unix.S_IFCHR | 0o640, byOwner},
		{"its own node", 500, 20, unix.S_IFCHR | 0o600, asIs},
		{"no node", 0, 0, unix.S_IFREG | 0o600, asIs},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			node := unix.Stat_t{Uid: tt.uid, Gid: tt.gid, Mode: tt.mode}
			if got := wayTo(node, &syscall.Credential{Uid: 500, Gid: 500, Groups: []uint32{501}}); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
			if got := wayTo(node, &syscall.Credential{Uid: 0, Gid: 0}); got != asIs {
				t.Errorf("for root: %d", got)
			}
		})
	}
}
