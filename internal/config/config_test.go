package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"openct/internal/devname"
)

var compareID = cmp.AllowUnexported(devname.ID{})

func id(t testing.TB, s string) devname.ID {
	t.Helper()
	id, err := devname.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustParse(t *testing.T, src string) *Config {
	t.Helper()
	c, _, err := Parse("openct.conf", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A file in the style that C OpenCT installs.
const classic = `# OpenCT configuration
debug = 0;

# hot plug support
hotplug = yes;

ifdhandler {
	program = "/usr/sbin/ifdhandler";
	force_poll = 1;
	user	= openctd;
	groups = {
		usb,
		scard,
	};
};

ifdproxy {
	server-port	= "proxy";
	device-port	= ":6666";
};

#reader towitoko {
#	driver = towitoko;
#};
reader old {
	driver = towitoko;
	device = serial:/dev/ttyS0;
};

driver	egate {
	ids = {
		usb:0973/0001,
	};
};
driver	etoken64 {
	ids = {
		usb:0529/0600,
		usb:0529/0700,
	};
};
`

func TestClassicFile(t *testing.T) {
	want := Default()
	want.Program = "/usr/sbin/ifdhandler"
	want.ForcePoll = true
	want.User = "openctd"
	want.Groups = []string{"usb", "scard"}
	want.Readers = []Reader{{Name: "old", Driver: "towitoko", Device: "serial:/dev/ttyS0", Where: "openct.conf:25"}}
	want.Drivers = []DriverIDs{
		{Name: "etoken64", IDs: []devname.ID{id(t, "usb:0529/0600"), id(t, "usb:0529/0700")}},
		{Name: "egate", IDs: []devname.ID{id(t, "usb:0973/0001")}},
	}
	if diff := cmp.Diff(want, mustParse(t, classic), compareID); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestShippedFile(t *testing.T) {
	file := filepath.Join("..", "..", "etc", "openct.conf")
	c, _, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, compareID); diff != "" {
		t.Errorf("the file as shipped changes the defaults (-default +file):\n%s", diff)
	}
	// What is commented out there must work when somebody takes the # away.
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(src)) {
		if !strings.HasPrefix(line, "# ") && line != "#\n" {
			all.WriteString(strings.TrimPrefix(line, "#"))
		}
	}
	c, warnings, err := Parse("openct.conf", []byte(all.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("with everything switched on: %q", warnings)
	}
	if len(c.Drivers) == 0 || len(c.Readers) == 0 || c.User == "" {
		t.Errorf("examples are missing: %+v", c)
	}
}

func TestValues(t *testing.T) {
	tests := []struct {
		name, src string
		set       func(c *Config)
	}{
		{"empty file", "", func(*Config) {}},
		{"comment without a newline at the end", "debug = 2; # two", func(c *Config) { c.Debug = 2 }},
		{"hexadecimal debug", "debug 0x3;", func(c *Config) { c.Debug = 3 }},
		{"octal debug", "debug = 010;", func(c *Config) { c.Debug = 8 }},
		{"comma for semicolon", "debug = 1, escape = on,", func(c *Config) { c.Debug, c.Escape = 1, true }},
		{"no blanks", "ifdhandler{user=a;groups={b,c,};};", func(c *Config) { c.User, c.Groups = "a", []string{"b", "c"} }},
		{"assigned group", "ifdhandler = { user = a; };", func(c *Config) { c.User = "a" }},
		{"last item without a comma", "ifdhandler { groups = { b, c } };", func(c *Config) { c.Groups = []string{"b", "c"} }},
		{"items ended by semicolons", "ifdhandler { groups = { b; c; }; };", func(c *Config) { c.Groups = []string{"b", "c"} }},
		{"one group without braces", "ifdhandler { groups = b; };", func(c *Config) { c.Groups = []string{"b"} }},
		{"quotes", `ifdhandler { program = "/opt/my programs/handler;x"; };`, func(c *Config) { c.Program = "/opt/my programs/handler;x" }},
		{"quotes in a word are part of it", `ifdhandler { program = a"b; };`, func(c *Config) { c.Program = `a"b` }},
		{"hash in a word", "ifdhandler { program = a#b; };", func(c *Config) { c.Program = "a#b" }},
		{"CR LF", "debug = 1;\r\nescape = yes;\r\n", func(c *Config) { c.Debug, c.Escape = 1, true }},
		{"socket", "socket { owner = openctd; group = scard; dir-mode = 0750; mode = 660; };", func(c *Config) {
			c.DirOwner, c.DirGroup, c.DirMode, c.SocketMode = "openctd", "scard", 0o750, 0o660
		}},
		{"locks", "lock { enforce = off; wait = 500ms; };", func(c *Config) {
			c.EnforceLocks, c.LockWait = false, 500*time.Millisecond
		}},
		{"wait in seconds", "lock { wait = 0; };", func(c *Config) { c.LockWait = 0 }},
		{"ccid and pcsc", "ccid = off; pcsc = ignore;", func(c *Config) { c.CCID, c.PCSC = CCIDOff, PCSCIgnore }},
		{"proxy", "ifdproxy { server-port = /x; device-port = :1; };", func(c *Config) {
			c.Proxy = Proxy{ServerPort: "/x", DevicePort: ":1"}
		}},
		{"device with colons", "reader r { driver = ccid; device = serial:/dev/by-path/pci-0000:00:14.0; };", func(c *Config) {
			c.Readers = []Reader{{Name: "r", Driver: "ccid", Device: "serial:/dev/by-path/pci-0000:00:14.0", Where: "openct.conf:1"}}
		}},
		{"reader without a name", "reader { driver = ccid; device = serial:/dev/ttyS0; };", func(c *Config) {
			c.Readers = []Reader{{Driver: "ccid", Device: "serial:/dev/ttyS0", Where: "openct.conf:1"}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Default()
			tt.set(want)
			if diff := cmp.Diff(want, mustParse(t, tt.src), compareID); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name, src string
		want      []string
	}{
		{"unknown key", "\nfuture = 1;", []string{`openct.conf:2: unknown key "future" is ignored`}},
		{"unknown key in a group", "lock {\n  color = red;\n};", []string{`openct.conf:2: unknown key "lock.color" is ignored`}},
		{"bare name", "usb;", []string{`openct.conf:1: unknown key "usb" is ignored`}},
		{"a second time", "debug = 1;\ndebug = x;", []string{`openct.conf:2: "debug" is ignored, it was set in line 1`}},
		{"id that is none", "driver ccid { ids = {\n usb:zzz, usb:1/2, }; };",
			[]string{`openct.conf:2: driver "ccid": cannot parse device ID usb:zzz: "zzz" is not a hexadecimal number; the id is ignored`}},
		{"bus cut short", "driver ccid { ids = { u:1/2, usb:1/2, }; };",
			[]string{`openct.conf:1: driver "ccid": cannot parse device ID u:1/2: the bus is not usb or pcmcia; the id is ignored`}},
		{"driver without a name", "driver { ids = { usb:1/2, }; };", []string{`openct.conf:1: driver without a name is ignored`}},
		{"reader without a driver", "reader x { device = serial:/dev/ttyS0; };", []string{`openct.conf:1: reader "x" is ignored, it has no driver`}},
		{"reader without a device", "reader x { driver = ccid; };", []string{`openct.conf:1: reader "x" is ignored, it has no device`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := Parse("openct.conf", []byte(tt.src))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range warnings {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("a {", maxDepth+1) + strings.Repeat("};", maxDepth+1)
	tests := []struct {
		name, src string
		syntax    bool
		want      string
	}{
		{"two words", "debug = a b;", true, `openct.conf:1: syntax error: unexpected token "b"`},
		{"no value", "\n\ndebug = ;", true, `openct.conf:3: syntax error: unexpected token ";"`},
		{"only an equal sign", "= 1;", true, `unexpected token "="`},
		{"two equal signs", "a = = 1;", true, `unexpected token "="`},
		{"lonely brace", "a { b; };\n};", true, `openct.conf:2: syntax error: unexpected token "}"`},
		{"group not ended", "a { b; }\nc = 1;", true, `openct.conf:2: syntax error: unexpected token "c"`},
		{"end inside a statement", "debug = 1", true, `openct.conf:1: syntax error: unexpected end of file`},
		{"end after a name", "debug", true, `unexpected end of file`},
		{"end inside a group", "\na {\n b;\n", true, `openct.conf:4: syntax error: unexpected end of file, the group of line 2 is open`},
		{"quotes over the end of a line", "a = \"b\nc\";", true, `openct.conf:1: syntax error: unexpected token "\""`},
		{"NUL", "a = b\x00;", true, "NUL byte"},
		{"too deep", deep, true, "more than 32 groups"},
		{"too long", strings.Repeat("#", maxSize+1), true, "longer than"},
		{"debug", "debug = much;", false, `openct.conf:1: "debug": "much" is not a number from 0`},
		{"negative debug", "debug = -1;", false, `is not a number`},
		{"boolean", "ifdhandler {\n force_poll = On; };", false, `openct.conf:2: "ifdhandler.force_poll": "On" is not on, yes, 1, off, no or 0`},
		{"mode", "socket { mode = 0888; };", false, `"0888" is not a file mode`},
		{"mode with more bits", "socket { mode = 4755; };", false, `"4755" is not a file mode`},
		{"time", "lock { wait = 1h; };", false, `"1h" is not a time from 0 to 5m`},
		{"negative time", "lock { wait = -1s; };", false, `is not a time`},
		{"word", "ccid = maybe;", false, `"maybe" is not on or off or auto`},
		{"group for a value", "debug { };", false, `"debug": needs one value`},
		{"value for a group", "ifdhandler = x;", false, `"ifdhandler": needs a group`},
		{"list of pairs", "ifdhandler { groups = { a b, }; };", false, `"a" in line 1 is not a single word`},
		{"device without a type", "reader x { driver = ccid; device = /dev/ttyS0; };", false, "is not TYPE:DEVICE"},
		{"all at once", "debug = x;\nccid = y;", false, "openct.conf:2:"},
		{"escape sequence", "debug = \x1b[2J;", false, `"\x1b[2J"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse("openct.conf", []byte(tt.src))
			if err == nil {
				t.Fatal("accepted")
			}
			if errors.Is(err, ErrSyntax) != tt.syntax {
				t.Errorf("syntax error: %v", err)
			}
			var e *Error
			if !errors.As(err, &e) || e.File != "openct.conf" || e.Line < 1 {
				t.Errorf("%v has no place", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
		})
	}
}

func TestDriverOrder(t *testing.T) {
	c := mustParse(t, `
		driver a { ids = { usb:1/1, }; };
		driver b { ids = { usb:2/2, }; };
		driver a { ids = { usb:3/3, }; };`)
	want := []DriverIDs{
		{Name: "b", IDs: []devname.ID{id(t, "usb:2/2")}},
		{Name: "a", IDs: []devname.ID{id(t, "usb:1/1"), id(t, "usb:3/3")}},
	}
	if diff := cmp.Diff(want, c.Drivers, compareID); diff != "" {
		t.Errorf("drivers (-want +got):\n%s", diff)
	}
	if name, ok := c.DriverFor(3, 3, 0x100); name != "a" || !ok {
		t.Errorf("0003:0003 goes to %q, %v", name, ok)
	}
	if name, ok := c.DriverFor(3, 4, 0x100); ok {
		t.Errorf("0003:0004 goes to %q", name)
	}
}

func TestLoad(t *testing.T) {
	c, _, err := Load(filepath.Join(t.TempDir(), "missing"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, compareID); diff != "" {
		t.Errorf("missing file (-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("directory: %v", err)
	}
}

func TestClassReaders(t *testing.T) {
	if !(&Config{CCID: CCIDOn}).ClassReaders() || (&Config{CCID: CCIDOff}).ClassReaders() {
		t.Error("on and off do not decide")
	}
	if pcscInstalled(fstest.MapFS{"usr/sbin/sshd": {}}) || !pcscInstalled(fstest.MapFS{"usr/sbin/pcscd": {}}) {
		t.Error("pcscd is not told")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(classic))
	for _, s := range []string{
		"debug = 2; # no newline", "a = \"b c\";", "usb;", "ids = { usb:1/2 }", "a { b { c { }; }; };", "a = b",
		"driver ccid { ids = { u:1/2, 0x46a/10, usb:1/2/3/4/5/6 }; };", "}", "= ;", "\"", "a#b;", "a\x00", "reader x;",
		"lock { wait = 9999999999999h; };", "socket { mode = 08; };",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, _, err := Parse("f", src)
		if (c == nil) != (err != nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Line > 1+strings.Count(string(src), "\n") {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		if c.SocketMode&^fs.ModePerm != 0 || c.LockWait < 0 || c.LockWait > maxWait || c.Debug < 0 {
			t.Errorf("out of range: %+v", c)
		}
		for _, r := range c.Readers {
			if _, err := r.Target(); err != nil {
				t.Errorf("reader without a target: %v", err)
			}
		}
		if slices.ContainsFunc(c.Drivers, func(d DriverIDs) bool { return slices.ContainsFunc(d.IDs, devname.ID.IsZero) }) {
			t.Error("empty id")
		}
	})
}
