package devname

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRemote(t *testing.T) {
	tests := []struct {
		name, device string
		want         Remote
	}{
		{"host alone", "ssh://desk/0", Remote{Host: "desk", Socket: "/run/openct/0"}},
		{"all there is", "ssh://alice@desk.example.org:2222/15", Remote{"alice", "desk.example.org", 2222, "/run/openct/15"}},
		{"address", "ssh://10.0.0.2/1", Remote{Host: "10.0.0.2", Socket: "/run/openct/1"}},
		{"IPv6 address", "ssh://a@[fd00::2]:22/0", Remote{"a", "fd00::2", 22, "/run/openct/0"}},
		{"socket elsewhere", "ssh://desk/var/run/openct/0", Remote{Host: "desk", Socket: "/var/run/openct/0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRemote(tt.device)
			if err != nil || got != tt.want {
				t.Errorf("%s: got %+v, %v", tt.device, got, err)
			}
		})
	}
}

func TestParseRemoteRefuses(t *testing.T) {
	tests := []struct{ name, device string }{
		{"nothing", ""},
		{"no scheme", "alice@desk/0"},
		{"another scheme", "http://desk/0"},
		{"no host", "ssh:///0"},
		{"no reader", "ssh://desk"},
		{"no reader behind the slash", "ssh://desk/"},
		{"a name for a reader", "ssh://desk/token"},
		{"number that is too long", "ssh://desk/100"},
		{"user that is an option", "ssh://-oProxyCommand=x@desk/0"},
		{"host that is an option", "ssh://-oProxyCommand=x/0"},
		{"host in brackets that is an option", "ssh://[-oProxyCommand=x]/0"},
		{"empty user", "ssh://@desk/0"},
		{"password", "ssh://alice:secret@desk/0"},
		{"user for a shell", "ssh://a;b@desk/0"},
		{"host for a shell", "ssh://$(x)/0"},
		{"escaped characters", "ssh://desk%2d/0"},
		{"token of ssh's", "ssh://desk/run/%h/0"},
		{"variable of ssh's", "ssh://desk/run/${HOME}/0"},
		{"second forwarding", "ssh://desk/run/a:/run/b"},
		{"path that goes up", "ssh://desk/run/../etc/0"},
		{"query", "ssh://desk/0?x"},
		{"fragment", "ssh://desk/0#x"},
		{"port 0", "ssh://desk:0/0"},
		{"port that is none", "ssh://desk:65536/0"},
		{"empty port", "ssh://desk:/0"},
		{"port of letters", "ssh://desk:x/0"},
		{"line break", "ssh://desk\n/0"},
		{"NUL", "ssh://desk/0\x00"},
		{"path too long for an address", "ssh://desk/" + strings.Repeat("a/", 60) + "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRemote(tt.device)
			if !errors.Is(err, ErrName) {
				t.Errorf("%q: got %+v, %v", tt.device, got, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

// A reader of openct.conf, by driver and device.
func TestFarDevices(t *testing.T) {
	tests := []struct {
		driver, device string
		ok             bool
	}{
		{"openct", "remote:ssh://alice@desk/0", true},
		{"openct", "unix:/run/other/0", true},
		{"openct", "remote:ssh://-oX/0", false},
		{"openct", "unix:run/0", false},
		{"openct", "serial:/dev/ttyS0", false},
		{"phoenix", "remote:ssh://desk/0", false},
	}
	for _, tt := range tests {
		t.Run(tt.driver+" "+tt.device, func(t *testing.T) {
			got, err := ParseDevice(tt.driver, tt.device)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrName) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestParseSocket(t *testing.T) {
	tests := []struct {
		name, device string
		ok           bool
	}{
		{"another OpenCT's", "/run/other/0", true},
		{"relative", "run/0", false},
		{"the root", "/", false},
		{"going up", "/run/../0", false},
		{"blank", "/run/a b/0", false},
		{"too long for an address", "/" + strings.Repeat("a", 107), false},
		{"as long as an address", "/" + strings.Repeat("a", 106), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := ParseSocket(tt.device); (err == nil) != tt.ok {
				t.Errorf("%q: %v", tt.device, err)
			}
		})
	}
}

// Whatever openct.conf says, no argument of ssh's comes out that is an option or
// has a character with a meaning to ssh.
func FuzzParseRemote(f *testing.F) {
	f.Add("ssh://alice@desk:22/0")
	f.Add("ssh://[fd00::2]/run/openct/0")
	f.Add("ssh://-oProxyCommand=x/0")
	f.Fuzz(func(t *testing.T, device string) {
		r, err := ParseRemote(device)
		if err != nil {
			return
		}
		for _, s := range []string{r.User, r.Host, r.Socket} {
			if strings.HasPrefix(s, "-") || strings.ContainsAny(s, " \t\n\x00%$~\\\"'`;&|<>()") {
				t.Errorf("%q: %+v", device, r)
			}
		}
		if r.Host == "" || !strings.HasPrefix(r.Socket, "/") || strings.Contains(r.Socket, ":") || r.Port < 0 || r.Port > 65535 {
			t.Errorf("%q: %+v", device, r)
		}
	})
}
