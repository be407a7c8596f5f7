package doctor

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"openct/internal/config"
	"openct/internal/machine"
)

// Folders of udev rules: a file in an earlier one takes the place of one with
// the same name in a later one (udev(7)).
var rulesDirs = []string{"etc/udev/rules.d", "run/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d"}

// assigned finds what a rule assigns to a key, by = or by the operator that begins
// with op: what is behind that. Between key and operator may stand blanks, and
// before them what attribute removes.
func assigned(line, key, op string, attribute func(string) string) iter.Seq[string] {
	const blanks = " \t\r\f"
	return func(yield func(string) bool) {
		for {
			_, rest, ok := strings.Cut(line, key)
			if !ok {
				return
			}
			line = rest
			rest = strings.TrimPrefix(strings.TrimLeft(attribute(rest), blanks), op)
			if value, ok := strings.CutPrefix(rest, "="); ok && !yield(strings.TrimLeft(value, blanks)) {
				return
			}
		}
	}
}

// startsUnit says whether a rule has systemd start a unit.
func startsUnit(line string) bool {
	for value := range assigned(line, "SYSTEMD_WANTS", "+", func(s string) string { return strings.TrimLeft(s, `}"`) }) {
		if value != "" && value[0] != '=' {
			return true
		}
	}
	return false
}

// givesGroup is the group that a rule gives a node to, if it does.
func givesGroup(line string) (string, bool) {
	for value := range assigned(line, "GROUP", ":", func(s string) string { return s }) {
		if rest, ok := strings.CutPrefix(value, `"`); ok {
			if group, _, ok := strings.Cut(rest, `"`); ok && group != "" {
				return group, true
			}
		}
	}
	return "", false
}

// runsHandler says whether udev itself runs what starts a handler.
func runsHandler(line string) bool {
	for value := range assigned(line, "RUN", "+", func(s string) string { return strings.TrimPrefix(s, "{program}") }) {
		if rest, ok := strings.CutPrefix(value, `"`); ok {
			command, _, _ := strings.Cut(rest, `"`)
			for _, name := range []string{"openct-control", "openct_usb", "ifdhandler"} {
				if strings.Contains(command, name) {
					return true
				}
			}
		}
	}
	return false
}

// rules finds the rules files that have to do with OpenCT.
func rules(root machine.Root) Rules {
	r := Rules{Running: root.UdevRuns()}
	first := map[string]string{} // file names, and where they were seen first
	seen := map[string]bool{}    // real folders: /lib may be /usr/lib
	for _, dir := range rulesDirs {
		real, err := filepath.EvalSymlinks(root.Path(dir))
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		entries, err := os.ReadDir(real)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".rules") {
				continue
			}
			path := "/" + filepath.Join(dir, e.Name())
			file := RulesFile{Path: path, Masked: first[e.Name()]}
			if file.Masked == "" {
				first[e.Name()] = path
			}
			b, err := os.ReadFile(filepath.Join(real, e.Name()))
			if err == nil && file.read(string(b)) {
				file.NoSuch = file.Group != "" && !isGroup(file.Group)
				r.Files = append(r.Files, file)
			}
		}
	}
	return r
}

// read looks through rules; false: they are not about OpenCT.
func (f *RulesFile) read(text string) bool {
	about := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") || !strings.Contains(strings.ToLower(line), "openct") {
			continue
		}
		about = true
		if group, ok := givesGroup(line); ok {
			f.Group = group
		}
		f.Starts = f.Starts || startsUnit(line)
		if f.Runs == 0 && runsHandler(line) {
			f.Runs = i + 1
		}
	}
	return about
}

// mdevStarts says whether a line of mdev.conf starts handlers.
func mdevStarts(text string) bool {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") && strings.Contains(line, "openct-control attach") {
			return true
		}
	}
	return false
}

// units asks systemd about openct.service and the units of devices.
func (o Options) units(ctx context.Context, f *Facts, cfg *config.Config) {
	if !f.Systemd {
		return
	}
	f.Service.Name = "openct.service"
	names := []string{f.Service.Name}
	for i := range f.Devices {
		names = append(names, f.Devices[i].Udev.Wants...)
	}
	asked := f.askedUnits()
	for _, u := range asked {
		names = append(names, u.Name)
	}
	args := append([]string{"-p", "LoadState,ActiveState,Result,StatusText,User,SupplementaryGroups", "--"}, names...)
	out, err := o.Systemctl(ctx, args...)
	if err != nil {
		return
	}
	units := map[string]Unit{}
	// A block for each unit, in the order of the arguments.
	blocks := strings.Split(strings.TrimRight(out, "\n"), "\n\n")
	for i, name := range names {
		if i < len(blocks) {
			units[name] = parseUnit(name, blocks[i])
		}
	}
	f.Service = units[f.Service.Name]
	for _, u := range asked {
		*u = units[u.Name]
	}
	o.unitUsers(f)
	o.stale(f, cfg)
	for i := range f.Devices {
		d := &f.Devices[i]
		for _, name := range d.Udev.Wants {
			u := units[name]
			d.Units = append(d.Units, u)
			if u.Load != "loaded" {
				continue
			}
			// The unit's user opens the node, not who is asking.
			user := u.User
			if user == "" {
				user = "root"
			}
			if cfg.User == "" || u.User != "" {
				o.nodeFor(&d.Node, user)
			}
		}
	}
}

func (o Options) nodeFor(n *Node, user string) {
	n.User = user
	if info, err := os.Stat(o.Root.Path(n.Path)); err == nil {
		n.UserMay = allowed(info, user)
	}
}

func parseUnit(name, block string) Unit {
	u := Unit{Name: name}
	fields := map[string]*string{
		"LoadState": &u.Load, "ActiveState": &u.Active, "Result": &u.Result, "StatusText": &u.StatusText, "User": &u.User,
		"SupplementaryGroups": &u.Groups,
	}
	for _, line := range strings.Split(block, "\n") {
		key, value, _ := strings.Cut(line, "=")
		if to := fields[key]; to != nil {
			*to = value
		}
	}
	return u
}
