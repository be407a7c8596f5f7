// Package readerunit makes what systemd has to know of the readers that
// openct.conf names. Each has a unit, an instance of openct-reader@.service. What
// depends on openct.conf stands in a drop-in of that unit, and in a link that has
// systemd start it when the device comes. openct-generator writes them
// (systemd.generator(7)).
package readerunit

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/coreos/go-systemd/v22/unit"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/machine"
)

// Dir is where systemd has generators write, below the file system's root.
const Dir = "run/systemd/generator"

const (
	prefix = "openct-reader@"
	suffix = ".service"
	dropIn = "openct.conf" // in the folder of a unit's drop-ins
)

// maxName is the longest name of a unit (systemd.unit(5)).
const maxName = 255

// Name is the unit of a reader; empty: its name is too long for one.
func Name(instance string) string {
	name := prefix + unit.UnitNameEscape(instance) + suffix
	if len(name) > maxName {
		return ""
	}
	return name
}

// Files are the drop-ins and links of all readers: what they hold, by their path
// below Dir. A link begins with "-> ".
type Files map[string]string

const link = "-> "

// Units are the names of the units that have a drop-in.
func (f Files) Units() []string {
	var names []string
	for path := range f {
		if dir, ok := strings.CutSuffix(filepath.Dir(path), ".d"); ok && filepath.Base(path) == dropIn {
			names = append(names, dir)
		}
	}
	slices.Sort(names)
	return names
}

// Has says whether what want has about a unit is there.
func (f Files) Has(want Files, name string) bool {
	path := filepath.Join(name+".d", dropIn)
	return want[path] != "" && f[path] == want[path]
}

// Make makes the files for a configuration. root is the file system's. An error
// is about one reader, which has no unit then.
func Make(c *config.Config, root machine.Root) (Files, error) {
	files := Files{}
	var failed []error
	template := findTemplate(root)
	for i, instance := range c.Instances() {
		r := c.Readers[i]
		t, err := r.Target()
		name := Name(instance)
		if err == nil && name == "" {
			err = errors.New("the name is too long for a unit of systemd")
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: reader %q: %w", r.Where, r.Name, err))
			continue
		}
		text, device := describe(instance, t, root)
		files[filepath.Join(name+".d", dropIn)] = "# Made by openct-generator from openct.conf. Do not edit.\n\n" + text
		if device != "" {
			files[filepath.Join(device+".wants", name)] = link + template
		}
	}
	return files, errors.Join(failed...)
}

// describe makes the drop-in of a reader. device is the unit that systemd has for
// its node; empty: none.
func describe(instance string, t devname.Target, root machine.Root) (text, device string) {
	options := []*unit.UnitOption{
		unit.NewUnitOption("Unit", "Description", setting(fmt.Sprintf("OpenCT reader %s on %s", instance, t.Path))),
	}
	node := filepath.Clean(t.Path)
	switch {
	case t.Type == devname.TypeRemote:
		options = append(options, network...)
	case !IsNode(t):
	case t.Type == "serial" && inDev(node) && !isPseudo(node, root):
		device = unit.UnitNamePathEscape(node) + ".device"
		options = append(options,
			unit.NewUnitOption("Unit", "BindsTo", device),
			unit.NewUnitOption("Unit", "After", device))
	default:
		options = append(options, unit.NewUnitOption("Unit", "ConditionPathExists", setting(node)))
	}
	if IsNode(t) {
		if inDev(node) { // elsewhere it leads to a pseudo-terminal, which every unit may use
			quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(setting(node)) + `"`
			options = append(options, unit.NewUnitOption("Service", "DeviceAllow", quoted+" rw"))
		}
		if groups := groupsOf(node, t.Type == "serial", root); len(groups) > 0 {
			options = append(options, unit.NewUnitOption("Service", "SupplementaryGroups", strings.Join(groups, " ")))
		}
	}
	b, _ := io.ReadAll(unit.Serialize(options)) // it is in memory
	return string(b), device
}

// network is what ssh needs of what openct-reader@.service takes away. It is for this
// reader alone. Addresses that may be reached stand in a drop-in of the
// administrator's, if anywhere (IPAddressAllow= in systemd.resource-control(5)).
var network = []*unit.UnitOption{
	unit.NewUnitOption("Unit", "Wants", "network-online.target"),
	unit.NewUnitOption("Unit", "After", "network-online.target nss-lookup.target"),
	unit.NewUnitOption("Service", "PrivateNetwork", "no"),
	unit.NewUnitOption("Service", "IPAddressDeny", ""),
	unit.NewUnitOption("Service", "RestrictAddressFamilies", "AF_INET AF_INET6"),
}

// IsNode says whether a reader's device is a node below /dev, or, of a serial
// line, a link anywhere, as programs make it to a pseudo-terminal of theirs.
func IsNode(t devname.Target) bool {
	if t.Type == "serial" {
		return filepath.IsAbs(t.Path)
	}
	return t.Type != "virtual" && inDev(filepath.Clean(t.Path))
}

func inDev(node string) bool { return strings.HasPrefix(node, "/dev/") }

// setting makes a text fit for a setting of a unit, in which % begins a specifier
// and a \ at the end goes on with the next line (systemd.syntax(7)).
func setting(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "_"))
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.HasSuffix(s, `\`) {
		s += "_"
	}
	return s
}

// isPseudo says whether a node is a pseudo-terminal, or a link to one: udev has no
// device for those, and so systemd no unit.
func isPseudo(node string, root machine.Root) bool {
	real, err := filepath.EvalSymlinks(root.Path(node))
	if err != nil {
		real = node
	}
	return strings.HasPrefix(strings.TrimPrefix(real, strings.TrimSuffix(string(root), "/")), "/dev/pts/")
}

// serialGroups are the groups that distributions give serial ports to: dialout in
// systemd's own rules (rules.d/50-udev-default.rules), uucp where they were changed.
// At boot, generators run before the node is there.
var serialGroups = []string{"dialout", "uucp"}

// groupsOf are the groups that may use the node.
func groupsOf(node string, serial bool, root machine.Root) []string {
	gid := uint32(0)
	if info, err := os.Stat(root.Path(node)); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			gid = st.Gid
		}
	}
	return groups(gid, serial, groupNames(root))
}

// groups are those for a node with this group, by name or number. Root's group is
// none: udev has not seen the node yet.
func groups(gid uint32, serial bool, names byID) []string {
	var groups []string
	for _, g := range serialGroups {
		if serial && slices.Contains(slices.Collect(maps.Values(names)), g) {
			groups = append(groups, g)
		}
	}
	if gid == 0 {
		return groups
	}
	name := strconv.Itoa(int(gid))
	if n := names[name]; n != "" {
		name = n
	}
	if !slices.Contains(groups, name) {
		groups = append(groups, name)
	}
	return groups
}

// byID are the names of groups by their number.
type byID map[string]string

// groupNames reads /etc/group. The C library's functions may ask systemd, which
// waits for its generators.
func groupNames(root machine.Root) byID {
	names := byID{}
	b, err := os.ReadFile(root.Path("etc/group"))
	if err != nil {
		return names
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(l), ":"); len(f) == 4 {
			names[f[2]] = f[0]
		}
	}
	return names
}

// Folders of units, in systemd's order (systemd.unit(5)).
var unitDirs = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// findTemplate is where openct-reader@.service is. systemd looks only at the name
// of the file that a link in a .wants folder leads to.
func findTemplate(root machine.Root) string {
	for _, dir := range unitDirs {
		path := filepath.Join(dir, prefix+suffix)
		if root.Exists(path) {
			return path
		}
	}
	return "/usr/lib/systemd/system/" + prefix + suffix
}

// Write writes the files below dir, which systemd has emptied.
func (f Files) Write(dir string) error {
	for path, content := range f {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		var err error
		if target, ok := strings.CutPrefix(content, link); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Read reads what openct-generator has written below dir. What cannot be read is
// not there.
func Read(dir string) Files {
	files := Files{}
	dropIns, _ := filepath.Glob(filepath.Join(dir, prefix+"*"+suffix+".d", dropIn))
	links, _ := filepath.Glob(filepath.Join(dir, "*.wants", prefix+"*"+suffix))
	for _, path := range dropIns {
		if b, err := os.ReadFile(path); err == nil {
			files[strings.TrimPrefix(path, dir+"/")] = string(b)
		}
	}
	for _, path := range links {
		if target, err := os.Readlink(path); err == nil {
			files[strings.TrimPrefix(path, dir+"/")] = link + target
		}
	}
	return files
}
