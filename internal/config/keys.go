package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"openct/internal/devname"
)

// Warning is an error in the file. The statement with it is skipped.
type Warning struct {
	File string
	Line int // from 1
	Err  error
}

func (w Warning) String() string { return fmt.Sprintf("%s:%d: %v", w.File, w.Line, w.Err) }

// maxWarnings is the largest number of warnings about one file.
const maxWarnings = 100

// collector turns nodes into a Config, collecting all there is to say about them.
type collector struct {
	file     string
	drivers  []string // that there are; nil: not known
	config   *Config
	warnings []Warning

	aliasLines []int // where config.Aliases stand
}

func (r *collector) warn(line int, err error) {
	if errors.Is(err, ErrUnknownDriver) {
		r.config.Unknown = true
	}
	switch len(r.warnings) {
	case maxWarnings:
		return
	case maxWarnings - 1:
		err = errors.New("further errors are not listed")
	}
	r.warnings = append(r.warnings, Warning{r.file, line, err})
}

func (r *collector) warnf(n *node, format string, args ...any) {
	r.warn(n.line, fmt.Errorf(format, args...))
}

func (r *collector) where(n *node) string { return fmt.Sprintf("%s:%d", r.file, n.line) }

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
			return errors.New("one value is needed")
		}
		return set(r.config, n.value)
	}}
}

// ignored is a key with one value that has no effect here: C OpenCT's way to ask
// for a reader's events, and its ifdproxy.
var ignored = value(func(*Config, string) error { return nil })

// block is a group of keys.
func block(keys map[string]key) key {
	return key{read: func(r *collector, n *node) error {
		if !n.hasGroup || n.hasValue {
			return errors.New("a group in braces is needed, and no value")
		}
		r.group(n.name+".", n.group, keys)
		return nil
	}}
}

// group reads statements as the given keys. Of a key that may come once, the
// first that can be read counts.
func (r *collector) group(prefix string, nodes []*node, keys map[string]key) {
	seen := map[string]int{}
	for _, n := range nodes {
		k, ok := keys[n.name]
		if !ok {
			r.warnf(n, "unknown key %s is ignored", show(prefix+n.name))
			continue
		}
		if line, again := seen[n.name]; again && !k.many {
			r.warnf(n, "%s is ignored: line %d sets it already", show(prefix+n.name), line)
			continue
		}
		if err := k.read(r, n); err != nil {
			r.warnf(n, "%s: %w; the statement is skipped", show(prefix+n.name), err)
			continue
		}
		seen[n.name] = n.line
	}
}

// The keys. Those that C OpenCT had keep their names.
var topKeys = map[string]key{
	"debug":   value(func(c *Config, v string) error { return assign(&c.Debug, v, level) }),
	"hotplug": value(func(c *Config, v string) error { return assign(&c.Hotplug, v, boolean) }),
	"ifdhandler": block(map[string]key{
		"program":    value(func(c *Config, v string) error { c.Program = v; return nil }),
		"force_poll": ignored,
		"user":       value(func(c *Config, v string) error { c.User = v; return nil }),
		"groups":     {read: readGroups},
	}),
	"ifdproxy": block(map[string]key{
		"server-port": ignored,
		"device-port": ignored,
	}),
	"socket": block(map[string]key{
		"owner":    value(func(c *Config, v string) error { c.DirOwner = v; return nil }),
		"group":    value(func(c *Config, v string) error { c.DirGroup = v; return nil }),
		"dir-mode": value(func(c *Config, v string) error { return assign(&c.DirMode, v, mode) }),
		"mode":     value(func(c *Config, v string) error { return assign(&c.SocketMode, v, mode) }),
	}),
	"lock": block(map[string]key{
		"enforce": value(func(c *Config, v string) error { return assign(&c.EnforceLocks, v, boolean) }),
		"wait":    value(func(c *Config, v string) error { return assign(&c.LockWait, v, duration) }),
	}),
	"ccid":   value(func(c *Config, v string) error { return assign(&c.CCID, v, oneOf(CCIDOn, CCIDOff, CCIDAuto)) }),
	"escape": value(func(c *Config, v string) error { return assign(&c.Escape, v, boolean) }),
	"pcsc":   value(func(c *Config, v string) error { return assign(&c.PCSC, v, oneOf(PCSCBridge, PCSCIgnore)) }),
	"reader": {read: readReader, many: true},
	"driver": {read: readDriver, many: true},
}

// items are the words of a list: groups = { usb, scard }; or one value alone.
func (r *collector) items(n *node) ([]*node, error) {
	if n.hasValue && !n.hasGroup {
		return []*node{{name: n.value, line: n.line}}, nil
	}
	if !n.hasGroup || n.hasValue {
		return nil, errors.New("a list in braces is needed")
	}
	return slices.DeleteFunc(slices.Clone(n.group), func(item *node) bool {
		wrong := item.hasValue || item.hasGroup
		if wrong {
			r.warnf(item, "%s: %s is not a single word, and is skipped", show(n.name), show(item.name))
		}
		return wrong
	}), nil
}

func readGroups(r *collector, n *node) error {
	list, err := r.items(n)
	for _, item := range list {
		r.config.Groups = append(r.config.Groups, item.name)
	}
	return err
}

// readReader reads a configured reader or an alias. An incomplete one is skipped, as
// C OpenCT does: it must not keep the others from working.
func readReader(r *collector, n *node) error {
	reader := Reader{Name: n.value, Where: r.where(n)}
	alias := Alias{Name: n.value, Where: r.where(n)}
	field := func(to *string) key {
		return value(func(_ *Config, v string) error { *to = v; return nil })
	}
	r.group("reader.", n.group, map[string]key{
		"driver": field(&reader.Driver),
		"device": field(&reader.Device),
		"clock":  value(func(_ *Config, v string) error { return assign(&reader.Clock, v, number("Hz", 1_000_000, 20_000_000)) }),
		"speed":  value(func(_ *Config, v string) error { return assign(&reader.Speed, v, number("bit/s", 1, 4_000_000)) }),
		"switch": value(func(_ *Config, v string) error {
			has, err := boolean(v)
			reader.NoSwitch = err == nil && !has
			return err
		}),
		"id":     value(func(_ *Config, v string) error { return assign(&alias.ID, v, usbID) }),
		"serial": value(func(_ *Config, v string) error { return assign(&alias.Serial, v, serialNumber) }),
		"port":   value(func(_ *Config, v string) error { return assign(&alias.Port, v, portName) }),
	})
	names := slices.ContainsFunc(n.group, func(n *node) bool { return slices.Contains([]string{"id", "serial", "port"}, n.name) })
	switch {
	case names && reader.Device == "":
		return r.readAlias(n, alias, reader)
	case names:
		r.warnf(n, "reader %s has a device, so its id, serial and port have no effect", show(n.value))
	}
	switch {
	case reader.Driver == "":
		r.warnf(n, "reader %s is skipped: the statement names no driver", show(n.value))
	case reader.Device == "":
		r.warnf(n, "reader %s is skipped: the statement names no device", show(n.value))
	default:
		t, err := reader.Target()
		if err == nil {
			err = r.driver(reader.Driver)
		}
		if err == nil && strings.ContainsFunc(reader.Name+reader.Device, unicode.IsControl) {
			err = errors.New("the name or device contains a control character")
		}
		if err == nil {
			err = r.alone(t)
		}
		if err != nil {
			return err
		}
		r.config.Readers = append(r.config.Readers, reader)
	}
	return nil
}

// alone says whether no reader before has the device. There may be any number of
// virtual ones.
func (r *collector) alone(t devname.Target) error {
	for _, other := range r.config.Readers {
		is, err := other.Target()
		if err == nil && t.Type != "virtual" && is.Type == t.Type && filepath.Clean(is.Path) == filepath.Clean(t.Path) {
			return fmt.Errorf("the device %[3]s is already that of reader %[1]s at %[2]s", show(other.Name), other.Where, t)
		}
	}
	return nil
}

// readDriver reads a driver's further ids. One that cannot be read is skipped.
func readDriver(r *collector, n *node) error {
	if !n.hasValue {
		r.warnf(n, "a driver statement without a name is skipped")
		return nil
	}
	err := r.driver(n.value)
	if err != nil && !errors.Is(err, errNotYet) {
		return err
	}
	to := &r.config.Drivers
	if err != nil {
		// C OpenCT's own openct.conf has such blocks.
		to = &r.config.NotYet
	}
	at := slices.IndexFunc(*to, func(d DriverIDs) bool { return d.Name == n.value })
	if at < 0 {
		at = len(*to)
		*to = append(*to, DriverIDs{Name: n.value, Where: r.where(n)})
	}
	d := &(*to)[at]
	r.group("driver.", n.group, map[string]key{"ids": {read: func(_ *collector, n *node) error {
		list, err := r.items(n)
		for _, item := range list {
			id, err := devname.ParseID(item.name)
			if err != nil {
				r.warnf(item, "driver %s: %w; the id is skipped", show(d.Name), err)
				continue
			}
			d.IDs = append(d.IDs, id)
		}
		return err
	}}})
	return nil
}

// assign reads a value; one that cannot be read changes nothing.
func assign[T any](to *T, v string, read func(string) (T, error)) error {
	x, err := read(v)
	if err == nil {
		*to = x
	}
	return err
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

// number is a number of some unit.
func number(unit string, least, most int) func(string) (int, error) {
	return func(v string) (int, error) {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%s is not a number of %s from %d to %d", show(v), unit, least, most)
		}
		return n, nil
	}
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

func oneOf[T ~string](allowed ...T) func(string) (T, error) {
	return func(v string) (T, error) {
		var names []string
		for _, a := range allowed {
			if v == string(a) {
				return a, nil
			}
			names = append(names, string(a))
		}
		return "", fmt.Errorf("%s is not %s", show(v), strings.Join(names, " or "))
	}
}
