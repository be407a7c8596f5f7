package main

import "testing"

func TestInitProgram(t *testing.T) {
	for _, tt := range []struct{ name, cmdline, want string }{
		{"systemd", "console=ttyS0 quiet rdinit=/x\n", "/sbin/init"},
		{"another", "console=ttyS0 init=/usr/local/lib/e2e/init quiet\n", "/usr/local/lib/e2e/init"},
		{"at the end", "quiet init=/bin/busybox\n", "/bin/busybox"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := initProgram(tt.cmdline); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
