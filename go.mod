module openct

go 1.24.0

// The tests need testing/synctest. Go 1.24 builds everything.
toolchain go1.25.0

require (
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/godbus/dbus/v5 v5.1.0
	github.com/google/go-cmp v0.7.0
	github.com/google/gousb v1.1.3
	github.com/rogpeppe/go-internal v1.14.1
	github.com/spf13/pflag v1.0.10
	golang.org/x/sys v0.38.0
)

require golang.org/x/tools v0.26.0 // indirect
