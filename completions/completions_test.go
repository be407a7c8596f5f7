// Package completions has the shell completions of the commands. There is no
// code here but this test: what a command's usage names, each shell offers.
package completions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// usages are the constants that hold the commands' usage texts.
var usages = map[string]struct{ file, name string }{
	"openct-control": {"../cmd/openct/control.go", "controlUsage"},
	"ifdhandler":     {"../internal/control/ifdhandler.go", "handlerUsage"},
	"openct-tool":    {"../cmd/openct/tool.go", "toolUsage"},
	"openct-vtoken":  {"../cmd/openct-vtoken/main.go", "usage"},
}

// usage is a command's usage text.
func usage(t *testing.T, command string) string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), usages[command].file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if ok && v.Names[0].Name == usages[command].name {
			text, err = strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		}
		return true
	})
	if err != nil || text == "" {
		t.Fatalf("%s: no usage text, %v", command, err)
	}
	return text
}

var (
	longOption = regexp.MustCompile(`--([a-z][a-z-]+)`)
	orders     = regexp.MustCompile(`(?m)^  ([a-z]+)(?:, ([a-z]+))?  ?`)
)

// words are the commands, orders and options a usage text names.
func words(t *testing.T, command string) (verbs, options []string) {
	text := usage(t, command)
	for _, m := range longOption.FindAllStringSubmatch(text, -1) {
		options = append(options, m[1])
	}
	for _, heading := range []string{"commands:\n", "orders:\n"} {
		_, list, ok := strings.Cut(text, "\n"+heading)
		if !ok {
			continue
		}
		list, _, _ = strings.Cut(list, "\n\n")
		for _, m := range orders.FindAllStringSubmatch(list, -1) {
			verbs = append(verbs, m[1])
			if m[2] != "" {
				verbs = append(verbs, m[2])
			}
		}
	}
	slices.Sort(options)
	return verbs, slices.Compact(options)
}

func TestShellsOfferWhatUsageNames(t *testing.T) {
	for _, command := range []string{"openct-control", "ifdhandler", "openct-tool", "openct-vtoken"} {
		verbs, options := words(t, command)
		if len(options) < 2 || command != "ifdhandler" && len(verbs) < 4 {
			t.Errorf("%s: usage not understood: commands %v, options %v", command, verbs, options)
		}
		for _, shell := range []struct{ name, file, option string }{
			{"bash", "bash/" + command, "--"},
			{"zsh", "zsh/_" + command, "--"},
			{"fish", "fish/" + command + ".fish", "-l "},
		} {
			t.Run(command+" in "+shell.name, func(t *testing.T) {
				b, err := os.ReadFile(shell.file)
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range verbs {
					if !regexp.MustCompile(`\b` + w + `\b`).Match(b) {
						t.Errorf("%s does not offer %q", shell.file, w)
					}
				}
				for _, o := range options {
					if !regexp.MustCompile(shell.option + o + `\b`).Match(b) {
						t.Errorf("%s does not offer --%s", shell.file, o)
					}
				}
			})
		}
	}
}

// harness stands for the bash-completion package and a user who pressed tab
// behind the last word.
const harness = `
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
_filedir() { COMPREPLY=(a-file); }
ifdhandler() { printf 'Reader drivers:\n    etoken64, etoken\nProtocols:\n    T=0\n'; }
openct-control() { printf '%s\n' '[' '{' '"reader": 0,' '"detail": {' '"alias": "office",' '}' '}' '{' '"reader": 12,' \
	'"serial": "x \"alias\": ",' '"alias": "my $(echo desk)"' '}' '{' '"reader": 3,' '"alias": "back office"' '}' ']'; }
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
spec=$(complete -p "$1"); spec=${spec#*-F }
"${spec%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
`

func TestBash(t *testing.T) {
	tests := []struct {
		line []string // the last word is being typed
		want string
	}{
		{[]string{"openct-control", "s"}, "status|shutdown"},
		{[]string{"openct-control", "--no"}, "--no-coldplug"},
		{[]string{"openct-control", "-f", ""}, "a-file"},
		{[]string{"openct-control", "-f", "CONF", "attach", "--reader", ""}, `desk|my\ desk|its\ \$HOME|tight`},
		{[]string{"openct-control", "-f", "CONF", "attach", "--reader", "my"}, `my\ desk`},
		{[]string{"openct-control", "status", ""}, `0|office|12|my\ \$\(echo\ desk\)|3|back\ office`},
		{[]string{"openct-control", "release", "o"}, "office"},
		{[]string{"openct-control", "verify", "1"}, "12"},
		{[]string{"openct-tool", "r"}, "rwait|read"},
		{[]string{"openct-tool", "-r", ""}, `0|office|12|my\ \$\(echo\ desk\)|3|back\ office`},
		{[]string{"openct-tool", "--reader", `my\ `}, `my\ \$\(echo\ desk\)`},
		{[]string{"openct-tool", "-r", `"back o`}, "back office"},
		{[]string{"openct-tool", "-r", `'b`}, "back office"},
		{[]string{"openct-tool", "-r", `"my`}, ""},
		{[]string{"ifdhandler", "eto"}, "etoken64|etoken"},
		{[]string{"ifdhandler", "etoken64", "v"}, "virtual"},
		{[]string{"ifdhandler", "-F", "etoken64", "virtual", "p"}, "piv"},
		{[]string{"openct-vtoken", "p"}, "plug"},
		{[]string{"openct-vtoken", "plug", "--driver", "eto"}, "etoken64|etoken"},
		{[]string{"openct-vtoken", "plug", "--card", "ec"}, "echo"},
		{[]string{"openct-vtoken", "ctl", ""}, "a-file"},
		{[]string{"openct-vtoken", "ctl", "sock", "s"}, "stall|short|status"},
	}
	conf := filepath.Join(t.TempDir(), "openct.conf")
	readers := "reader desk {\n};\n\treader \"my desk\" { };\nreader  \"its $HOME\"{};\nreader tight{};\nreader { };\n# reader no { };\n"
	if err := os.WriteFile(conf, []byte(readers), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.line, " "), func(t *testing.T) {
			args := append([]string{"--norc", "-c", harness, "bash", "bash/" + tt.line[0]}, tt.line...)
			if i := slices.Index(args, "CONF"); i >= 0 {
				args[i] = conf
			}
			out, err := exec.Command("bash", args...).CombinedOutput()
			if got := strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "|"); err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
