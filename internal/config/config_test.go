package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
	c, warnings := Parse("openct.conf", []byte(src), nil)
	if len(warnings) > 0 {
		t.Fatalf("warnings: %q", warnings)
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
	want.Hotplug = true
	want.Program = "/usr/sbin/ifdhandler"
	want.User = "openctd"
	want.Groups = []string{"usb", "scard"}
	want.Readers = []Reader{{Name: "old", Driver: "towitoko", Device: "serial:/dev/ttyS0", Where: "openct.conf:25"}}
	want.Drivers = []DriverIDs{
		{Name: "etoken64", IDs: []devname.ID{id(t, "usb:0529/0600"), id(t, "usb:0529/0700")}, Where: "openct.conf:35"},
		{Name: "egate", IDs: []devname.ID{id(t, "usb:0973/0001")}, Where: "openct.conf:30"},
	}
	if diff := cmp.Diff(want, mustParse(t, classic), compareID); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestShippedFile(t *testing.T) {
	file := filepath.Join("..", "..", "etc", "openct.conf")
	c, warnings, err := Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	want := Default()
	want.Hotplug = true
	if diff := cmp.Diff(want, c, compareID); diff != "" {
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
	c, warnings = Parse("openct.conf", []byte(all.String()), nil)
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
		{"hotplug", "hotplug = yes;", func(c *Config) { c.Hotplug = true }},
		{"no hotplug", "hotplug = no;", func(*Config) {}},
		{"without effect", "ifdhandler { force_poll = on; }; ifdproxy { server-port = /x; device-port = :1; };", func(*Config) {}},
		{"device with colons", "reader r { driver = ccid; device = serial:/dev/by-path/pci-0000:00:14.0; };", func(c *Config) {
			c.Readers = []Reader{{Name: "r", Driver: "ccid", Device: "serial:/dev/by-path/pci-0000:00:14.0", Where: "openct.conf:1"}}
		}},
		{"two readers with a name", "reader r { driver = etoken; device = virtual:a; };\nreader r { driver = etoken; device = virtual:a; };", func(c *Config) {
			c.Readers = []Reader{{Name: "r", Driver: "etoken", Device: "virtual:a", Where: "openct.conf:1"}, {Name: "r", Driver: "etoken", Device: "virtual:a", Where: "openct.conf:2"}}
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

// Each file has one error, and behind it what is to be served all the same.
func TestMistakes(t *testing.T) {
	deep := strings.Repeat("a {", maxDepth+1) + strings.Repeat("};", maxDepth+1)
	drivers := []string{"etoken64", "ePass3000", "ccid"}
	const rest = "\nlock { wait = 7s; };\nreader good { driver = etoken64; device = virtual:echo; };"
	tests := []struct {
		name, src string
		is        error
		want      string
	}{
		{"two words", "debug = a b;", ErrSyntax, `1: syntax error: unexpected token "b"; the statement "debug" is skipped`},
		{"no value", "\n\ndebug = ;", ErrSyntax, `3: syntax error: unexpected token ";"; the statement "debug" is skipped`},
		{"no value, and the next line is taken for it", "debug =\nescape = off;", ErrSyntax, `2: syntax error: unexpected token "="; the statement "debug" is skipped`},
		{"no semicolon", "debug = 1", ErrSyntax, `1: syntax error: the semicolon after "debug" is missing; the statement is skipped`},
		{"a name alone", "socket { mode };", nil, `1: "socket.mode": one value is needed; the statement is skipped`},
		{"only an equal sign", "= 1;", ErrSyntax, `1: syntax error: unexpected token "="`},
		{"only a semicolon", "debug = 0;;", ErrSyntax, `1: syntax error: unexpected token ";"`},
		{"two equal signs", "a = = 1;", ErrSyntax, `1: syntax error: unexpected token "="; the statement "a" is skipped`},
		{"a brace too many", "lock { wait = 7s; };\n};", ErrSyntax, `2: syntax error: unexpected token "}"`},
		{"group not ended", "ifdhandler { user = x; }", ErrSyntax, `1: syntax error: the semicolon after "ifdhandler" is missing; the statement is skipped`},
		{"brace missing", "socket { mode = 0660;", ErrSyntax, `1: syntax error: unexpected end of file: the brace that closes the group of "socket" is missing; the statement is skipped`},
		{"something behind a group", "socket { mode = 0660; } = 1;", ErrSyntax, `1: syntax error: unexpected token "="; the statement "socket" is skipped`},
		{"an error inside a group", "socket { mode = ; owner = x y; };", ErrSyntax, `1: syntax error: unexpected token ";"; the statement "mode" is skipped`},
		{"quotes over the end of a line", "debug = \"1;\nescape = off;", ErrSyntax, `1: syntax error: unexpected token "\"", the quotes are not closed on this line; the statement "debug" is skipped`},
		{"NUL", "debug = 1\x00;", ErrSyntax, `1: syntax error: NUL byte; the statement "debug" is skipped`},
		{"too deep", deep, ErrSyntax, `1: syntax error: more than 32 nested groups; the statement "a" is skipped`},
		{"debug", "debug = much;", nil, `1: "debug": "much" is not a number from 0; the statement is skipped`},
		{"negative debug", "debug = -1;", nil, `1: "debug": "-1" is not a number from 0; the statement is skipped`},
		{"boolean", "lock {\n enforce = On; wait = 7s; };", nil, `2: "lock.enforce": "On" is not on, yes, 1, off, no or 0; the statement is skipped`},
		{"mode", "socket { mode = 0888; };", nil, `1: "socket.mode": "0888" is not a file mode such as 0660; the statement is skipped`},
		{"mode with more bits", "socket { mode = 4755; };", nil, `1: "socket.mode": "4755" is not a file mode such as 0660; the statement is skipped`},
		{"time", "lock { wait = 1h; wait = 7s; };", nil, `1: "lock.wait": "1h" is not a time from 0 to 5m, such as 3s; the statement is skipped`},
		{"negative time", "lock { wait = -1s; wait = 7s; };", nil, `1: "lock.wait": "-1s" is not a time from 0 to 5m, such as 3s; the statement is skipped`},
		{"word", "ccid = maybe;", nil, `1: "ccid": "maybe" is not on or off or auto; the statement is skipped`},
		{"group for a value", "debug { };", nil, `1: "debug": one value is needed; the statement is skipped`},
		{"value for a group", "ifdhandler = /usr/sbin/ifdhandler;", nil, `1: "ifdhandler": a group in braces is needed, and no value; the statement is skipped`},
		{"list of pairs", "ifdhandler { groups = { a b, }; };", nil, `1: "groups": "a" is not a single word, and is skipped`},
		{"escape sequence", "debug = \x1b[2J;", nil, `1: "debug": "\x1b[2J" is not a number from 0; the statement is skipped`},
		{"unknown key", "\nfuture = 1;", nil, `2: unknown key "future" is ignored`},
		{"unknown key in a group", "socket {\n  color = red;\n};", nil, `2: unknown key "socket.color" is ignored`},
		{"unknown key of a reader", "reader x { color = red; driver = ccid; };", nil, `1: unknown key "reader.color" is ignored`},
		{"bare name", "usb;", nil, `1: unknown key "usb" is ignored`},
		{"a second time", "debug = 0;\ndebug = 1;", nil, `2: "debug" is ignored: line 1 sets it already`},
		{"id that is none", "driver etoken64 { ids = {\n usb:zzz, }; };", nil,
			`2: driver "etoken64": cannot parse device ID usb:zzz: "zzz" is not a hexadecimal number; the id is skipped`},
		{"bus cut short", "driver etoken64 { ids = { u:1/2, }; };", nil,
			`1: driver "etoken64": cannot parse device ID u:1/2: the bus is not usb or pcmcia; the id is skipped`},
		{"two ids without a comma", "driver etoken64 { ids = { usb:1/2\n usb:3/4, }; };", nil, `1: "ids": "usb:1/2" is not a single word, and is skipped`},
		{"driver without a name", "driver { ids = { usb:1/2, }; };", nil, `1: a driver statement without a name is skipped`},
		{"driver that is not there", "\ndriver nosuchthing { ids = { usb:1/2, }; };", ErrUnknownDriver,
			`2: "driver": driver "nosuchthing": no driver has this name; the statement is skipped`},
		{"driver with a slip", "driver epass3000 { ids = { usb:1/2, }; };", ErrUnknownDriver,
			`1: "driver": driver "epass3000": no driver has this name; the nearest name is "ePass3000"; the statement is skipped`},
		{"driver with a long name", "driver " + strings.Repeat("x", 1000) + ";", ErrUnknownDriver, `no driver has this name; the statement is skipped`},
		{"reader without a driver", "reader x { device = serial:/dev/ttyS0; };", nil, `1: reader "x" is skipped: the statement names no driver`},
		{"reader without a device", "reader x { driver = ccid; };", nil, `1: reader "x" is skipped: the statement names no device`},
		{"reader whose driver is not there", "reader x { driver = etoken46; device = serial:/dev/ttyS0; };", ErrUnknownDriver,
			`1: "reader": driver "etoken46": no driver has this name; the nearest name is "etoken64"; the statement is skipped`},
		{"reader whose driver C OpenCT had", "reader x { driver = towitoko; device = serial:/dev/ttyS0; };", ErrUnknownDriver,
			`1: "reader": driver "towitoko": no driver has this name here; C OpenCT has one; the statement is skipped`},
		{"reader with a tab in its name", "reader \"x\ty\" { driver = ccid; device = serial:/dev/ttyS0; };", nil,
			`1: "reader": the name or device contains a control character; the statement is skipped`},
		{"device without a type", "reader x { driver = ccid; device = /dev/ttyS0; };", nil, "is not TYPE:DEVICE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, warnings := Parse("openct.conf", []byte(tt.src+rest), drivers)
			if len(warnings) == 0 {
				t.Fatal("accepted")
			}
			w := warnings[0]
			if got := w.String(); !strings.Contains(got, tt.want) || !strings.HasPrefix(got, "openct.conf:") {
				t.Errorf("said %q, want %q", got, tt.want)
			}
			if tt.is != nil && !errors.Is(w.Err, tt.is) {
				t.Errorf("%v is not %v", w.Err, tt.is)
			}
			want := Default()
			want.LockWait = 7 * time.Second
			want.Unknown = tt.is == ErrUnknownDriver
			line := 3 + strings.Count(tt.src, "\n")
			want.Readers = []Reader{{Name: "good", Driver: "etoken64", Device: "virtual:echo", Where: fmt.Sprintf("openct.conf:%d", line)}}
			c.Drivers = nil // TestFilesInUse and TestDriverOrder are about those
			if diff := cmp.Diff(want, c, compareID); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
		})
	}
}

// What a broken group held is not lost with it, and what was meant for it alone
// has no effect elsewhere.
func TestOpenGroup(t *testing.T) {
	c, warnings := Parse("openct.conf", []byte("ifdhandler {\n user = x;\n\nreader a { driver = b; device = c:d; };\nccid = off;\n"), nil)
	want := Default()
	want.CCID = CCIDOff
	want.Readers = []Reader{{Name: "a", Driver: "b", Device: "c:d", Where: "openct.conf:4"}}
	if diff := cmp.Diff(want, c, compareID); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	if len(warnings) != 2 || warnings[0].Line != 1 || warnings[1].String() != `openct.conf:2: unknown key "user" is ignored` {
		t.Errorf("warnings: %q", warnings)
	}
}

// A file of nothing but errors does not fill a log.
func TestManyMistakes(t *testing.T) {
	_, warnings := Parse("openct.conf", bytes.Repeat([]byte("=;\n"), 1000), nil)
	if n := len(warnings); n != maxWarnings || warnings[n-1].Err.Error() != "further errors are not listed" {
		t.Errorf("%d warnings, the last is %v", n, warnings[n-1])
	}
}

// Files that are in use: what each asks for, and what is said about it.
func TestFilesInUse(t *testing.T) {
	drivers := []string{"etoken64", "etoken", "ikey2k", "ikey3k", "ePass3000", "egate", "eutron", "starkey", "rutoken", "ccid", "phoenix"}
	tests := []struct {
		file, add string
		given     map[string]string // device: the driver that it is given to
		user      string
		groups    []string
		readers   int
		notes     []string
		warnings  []string
	}{
		{
			file: "classic.conf", add: "ccid = off;",
			given: map[string]string{"0529/0600": "etoken64", "073d/0005": "eutron", "0a89/0012": "rutoken", "04e6/5115": "", "0c4b/0100": ""},
			notes: []string{
				"openct.conf:79: the ids for driver ccid have no effect: readers of the USB smart card class are left to pcscd; ccid = on; changes that",
				"openct.conf:106: the ids for driver pertosmart1030 of C OpenCT have no effect: the driver does not exist here",
				"openct.conf:112: the ids for driver pertosmart1038 of C OpenCT have no effect: the driver does not exist here",
				"openct.conf:120: the ids for driver cyberjack of C OpenCT have no effect: the driver does not exist here",
			},
		},
		{
			file: "classic.conf", add: "ccid = on;",
			given: map[string]string{"0529/0600": "etoken64", "04e6/5115": "ccid", "08e6/3437": "ccid", "0c4b/0100": ""},
			notes: []string{
				"openct.conf:106: the ids for driver pertosmart1030 of C OpenCT have no effect: the driver does not exist here",
				"openct.conf:112: the ids for driver pertosmart1038 of C OpenCT have no effect: the driver does not exist here",
				"openct.conf:120: the ids for driver cyberjack of C OpenCT have no effect: the driver does not exist here",
			},
		},
		{
			file: "gentoo.conf", add: "ccid = off;",
			given: map[string]string{"0529/0600": "etoken64", "04e6/5115": ""},
			user:  "openctd", groups: []string{"usb"},
			notes: []string{"openct.conf:20: the ids for driver ccid have no effect: readers of the USB smart card class are left to pcscd; ccid = on; changes that"},
		},
		{
			file: "phoenix.conf", readers: 1,
		},
		{
			file:  "mistakes.conf",
			given: map[string]string{"1234/0001": "etoken", "1234/0002": ""},
			user:  "openctd", readers: 1,
			warnings: []string{
				`openct.conf:2: "debug": "lots" is not a number from 0; the statement is skipped`,
				`openct.conf:5: unknown key "ifdhandler.colour" is ignored`,
				`openct.conf:8: "driver": driver "etokn": no driver has this name; the nearest name is "etoken"; the statement is skipped`,
				`openct.conf:12: driver "etoken": cannot parse device ID usb:wxyz/1: "wxyz" is not a hexadecimal number; the id is skipped`,
				`openct.conf:17: reader "lost" is skipped: the statement names no device`,
				`openct.conf:21: syntax error: unexpected token "two"; the statement "escape" is skipped`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.file+" "+tt.add, func(t *testing.T) {
			src, err := os.ReadFile(filepath.Join("testdata", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			c, warnings := Parse("openct.conf", append(src, tt.add...), drivers)
			for dev, want := range tt.given {
				var vendor, product uint16
				if _, err := fmt.Sscanf(dev, "%04x/%04x", &vendor, &product); err != nil {
					t.Fatal(err)
				}
				if got, _ := c.DriverFor(vendor, product, 0x100); got != want {
					t.Errorf("%s is given to %q, want %q", dev, got, want)
				}
			}
			if c.User != tt.user || !slices.Equal(c.Groups, tt.groups) || len(c.Readers) != tt.readers {
				t.Errorf("user %q, groups %q, %d readers", c.User, c.Groups, len(c.Readers))
			}
			if diff := cmp.Diff(tt.notes, c.Notes()); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
			var said []string
			for _, w := range warnings {
				said = append(said, w.String())
			}
			if diff := cmp.Diff(tt.warnings, said); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	names := []string{"etoken64", "etoken", "ePass3000", "ccid"}
	tests := []struct{ name, want string }{
		{"etoken6", "etoken64"}, // as near to etoken, which comes later
		{"Etoken", "etoken"},
		{"epass3000", "ePass3000"},
		{"cid", "ccid"},
		{"cc", ""},
		{"", ""},
		{"somethingelse", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := nearest(tt.name, names); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestUnread(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		link  bool
		want  []string
	}{
		{"only ours", []string{"/etc/openct.conf"}, false, nil},
		{"none", nil, false, nil},
		{"that of a C OpenCT built from source", []string{"/usr/local/etc/openct.conf"}, false, []string{"/usr/local/etc/openct.conf"}},
		{"both", []string{"/etc/openct.conf", "/usr/local/etc/openct.conf"}, false, []string{"/usr/local/etc/openct.conf"}},
		{"one is a link to the other", []string{"/etc/openct.conf"}, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, dir := range []string{"etc", "usr/local/etc"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range tt.files {
				if err := os.WriteFile(filepath.Join(root, f), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tt.link {
				if err := os.Symlink(filepath.Join(root, "etc/openct.conf"), filepath.Join(root, "usr/local/etc/openct.conf")); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, Unread(root, filepath.Join(root, "etc/openct.conf"))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
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
		{Name: "b", IDs: []devname.ID{id(t, "usb:2/2")}, Where: "openct.conf:3"},
		{Name: "a", IDs: []devname.ID{id(t, "usb:1/1"), id(t, "usb:3/3")}, Where: "openct.conf:2"},
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
	c, _, err := Load(filepath.Join(t.TempDir(), "missing"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, compareID); diff != "" {
		t.Errorf("missing file (-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	if _, _, err := Load(dir, nil); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("directory: %v", err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, bytes.Repeat([]byte("#"), maxSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(long, nil); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("too long: %v", err)
	}
}
