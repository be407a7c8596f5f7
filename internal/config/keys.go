package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"openct/internal/devname"
)

// Warning is something in the file that has no effect.
type Warning struct {
	File string
	Line int
	Text string
}

func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text) }

// collector turns nodes into a Config, collecting all there is to say about them.
type collector struct {
	file     string
	config   *Config
	warnings []Warning
	errs     []error
}

func (r *collector) warn(n *node, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{r.file, n.line, fmt.Sprintf(format, args...)})
}

// key is what may stand in a group: how to read it, and whether it may come more
// than once.
type key struct {
	read func(r *collector, n *node) error
	many bool
}

// value is a key with one value; set stores it.
func value(set func(c *Config, v string) error) key {
	return key{read: func(r *collector, n *node) error {
		if !n.hasValue || n.hasGroup {
			return errors.New("needs one value")
		}
		return set(r.config, n.value)
	}}
}

// block is a group of keys.
func block(keys map[string]key) key {
	return key{read: func(r *collector, n *node) error {
		if !n.hasGroup || n.hasValue {
			return errors.New("needs a group in braces, and no value")
		}
		r.group(n.name+".", n.group, keys)
		return nil
	}}
}

// group reads statements as the given keys. Of a key that may come once, the
// first counts (spec/cli.md, 4.1).
func (r *collector) group(prefix string, nodes []*node, keys map[string]key) {
	seen := map[string]int{}
	for _, n := range nodes {
		k, ok := keys[n.name]
		if !ok {
			r.warn(n, "unknown key %s is ignored", show(prefix+n.name))
			continue
		}
		if line, again := seen[n.name]; again && !k.many {
			r.warn(n, "%s is ignored, it was set in line %d", show(prefix+n.name), line)
			continue
		}
		seen[n.name] = n.line
		if err := k.read(r, n); err != nil {
			r.errs = append(r.errs, &Error{File: r.file, Line: n.line, Err: fmt.Errorf("%s: %w", show(prefix+n.name), err)})
		}
	}
}

// The keys. Those that C OpenCT had keep their names (spec/cli.md, 4.3).
var topKeys = map[string]key{
	"debug":   value(func(c *Config, v string) (err error) { c.Debug, err = level(v); return }),
	"hotplug": {read: func(*collector, *node) error { return nil }}, // never had an effect
	"ifdhandler": block(map[string]key{
		"program":    value(func(c *Config, v string) error { c.Program = v; return nil }),
		"force_poll": value(func(c *Config, v string) (err error) { c.ForcePoll, err = boolean(v); return }),
		"user":       value(func(c *Config, v string) error { c.User = v; return nil }),
		"groups":     {read: readGroups},
	}),
	"ifdproxy": block(map[string]key{
		"server-port": value(func(c *Config, v string) error { c.Proxy.ServerPort = v; return nil }),
		"device-port": value(func(c *Config, v string) error { c.Proxy.DevicePort = v; return nil }),
	}),
	"socket": block(map[string]key{
		"owner":    value(func(c *Config, v string) error { c.DirOwner = v; return nil }),
		"group":    value(func(c *Config, v string) error { c.DirGroup = v; return nil }),
		"dir-mode": value(func(c *Config, v string) (err error) { c.DirMode, err = mode(v); return }),
		"mode":     value(func(c *Config, v string) (err error) { c.SocketMode, err = mode(v); return }),
	}),
	"lock": block(map[string]key{
		"enforce": value(func(c *Config, v string) (err error) { c.EnforceLocks, err = boolean(v); return }),
		"wait":    value(func(c *Config, v string) (err error) { c.LockWait, err = duration(v); return }),
	}),
	"ccid": value(func(c *Config, v string) (err error) {
		c.CCID, err = oneOf(v, CCIDOn, CCIDOff, CCIDAuto)
		return
	}),
	"escape": value(func(c *Config, v string) (err error) { c.Escape, err = boolean(v); return }),
	"pcsc": value(func(c *Config, v string) (err error) {
		c.PCSC, err = oneOf(v, PCSCBridge, PCSCIgnore)
		return
	}),
	"reader": {read: readReader, many: true},
	"driver": {read: readDriver, many: true},
}

// items are the words of a list: groups = { usb, scard }; or one value alone.
func items(n *node) ([]*node, error) {
	if n.hasValue && !n.hasGroup {
		return []*node{{name: n.value, line: n.line}}, nil
	}
	if !n.hasGroup || n.hasValue {
		return nil, errors.New("needs a list in braces")
	}
	for _, item := range n.group {
		if item.hasValue || item.hasGroup {
			return nil, fmt.Errorf("%s in line %d is not a single word", show(item.name), item.line)
		}
	}
	return n.group, nil
}

func readGroups(r *collector, n *node) error {
	list, err := items(n)
	for _, item := range list {
		r.config.Groups = append(r.config.Groups, item.name)
	}
	return err
}

// readReader reads a configured reader. An incomplete one is skipped, as C OpenCT
// does: it must not keep the others from working.
func readReader(r *collector, n *node) error {
	reader := Reader{Name: n.value, Where: fmt.Sprintf("%s:%d", r.file, n.line)}
	field := func(to *string) key {
		return key{read: func(_ *collector, n *node) error {
			if !n.hasValue || n.hasGroup {
				return errors.New("needs one value")
			}
			*to = n.value
			return nil
		}}
	}
	before := len(r.errs)
	r.group("reader.", n.group, map[string]key{"driver": field(&reader.Driver), "device": field(&reader.Device)})
	if len(r.errs) > before {
		return nil
	}
	switch {
	case reader.Driver == "":
		r.warn(n, "reader %s is ignored, it has no driver", show(n.value))
	case reader.Device == "":
		r.warn(n, "reader %s is ignored, it has no device", show(n.value))
	default:
		if _, err := reader.Target(); err != nil {
			return err
		}
		r.config.Readers = append(r.config.Readers, reader)
	}
	return nil
}

// readDriver reads a driver's further ids. One that cannot be read was ignored
// silently; now it is ignored with a warning, for it must not take the service
// from all other devices.
func readDriver(r *collector, n *node) error {
	if !n.hasValue {
		r.warn(n, "driver without a name is ignored")
		return nil
	}
	at := slices.IndexFunc(r.config.Drivers, func(d DriverIDs) bool { return d.Name == n.value })
	if at < 0 {
		at = len(r.config.Drivers)
		r.config.Drivers = append(r.config.Drivers, DriverIDs{Name: n.value})
	}
	d := &r.config.Drivers[at]
	r.group("driver.", n.group, map[string]key{"ids": {read: func(_ *collector, n *node) error {
		list, err := items(n)
		for _, item := range list {
			id, err := devname.ParseID(item.name)
			if err != nil {
				r.warn(item, "driver %s: %v; the id is ignored", show(d.Name), err)
				continue
			}
			d.IDs = append(d.IDs, id)
		}
		return err
	}}})
	return nil
}

func boolean(v string) (bool, error) {
	switch v {
	case "1", "on", "yes":
		return true, nil
	case "0", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("%s is not on, yes, 1, off, no or 0", show(v))
}

func level(v string) (int, error) {
	n, err := strconv.ParseInt(v, 0, 16)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is not a number from 0", show(v))
	}
	return int(n), nil
}

// mode is a file mode in octal, with or without a leading 0.
func mode(v string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(v, 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("%s is not a file mode such as 0660", show(v))
	}
	return fs.FileMode(n), nil
}

const maxWait = 5 * time.Minute

// duration is seconds, or a number with a unit: 3, 500ms, 2m.
func duration(v string) (time.Duration, error) {
	text := v
	if strings.Trim(v, "0123456789") == "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxWait {
		return 0, fmt.Errorf("%s is not a time from 0 to 5m, such as 3s", show(v))
	}
	return d, nil
}

func oneOf[T ~string](v string, allowed ...T) (T, error) {
	var names []string
	for _, a := range allowed {
		if v == string(a) {
			return a, nil
		}
		names = append(names, string(a))
	}
	return "", fmt.Errorf("%s is not %s", show(v), strings.Join(names, " or "))
}

// show quotes a word from the file, which may hold anything.
func show(s string) string { return strconv.Quote(s) }
