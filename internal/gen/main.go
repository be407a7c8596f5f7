//go:generate go run . ../..

// Command gen writes what is made from the driver table, so that a driver is
// listed in one place only: udev's rules, the ids that pcscd gives to the
// PC/SC bundle, the lists of devices in README.md and ifdhandler(8). Its
// argument is the top of the source tree.
//
//	go run ./internal/gen fixture REPORT
//
// makes a test of a report of "openct-control verify": the driver must play its
// recording from then on, and the lists say so.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"openct/internal/driver"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gen: ")
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "fixture":
		name, err := fixture(".", args[1], goTest)
		if err != nil {
			log.Fatal(err)
		}
		log.Printf("%s is in %s; the driver plays it in: go test ./internal/verify", name, reports)
	case len(args) == 1:
		if err := generate(args[0]); err != nil {
			log.Fatal(err)
		}
	default:
		log.Fatal("usage: gen TOP, or in the top of the tree: gen fixture REPORT")
	}
}

// generate writes all targets.
func generate(top string) error {
	for _, t := range targets() {
		if err := t.write(top); err != nil {
			return err
		}
	}
	return nil
}

// target is a file that is made from the table, as a whole or in a part.
type target struct {
	file string // from the top of the tree, with slashes

	// make makes the new content from the old one.
	make func(old []byte, table []driver.Entry) ([]byte, error)
}

func (t target) path(top string) string { return filepath.Join(top, filepath.FromSlash(t.file)) }

// contents are what the file has and what it should have.
func (t target) contents(top string) (has, want []byte, err error) {
	has, err = os.ReadFile(t.path(top))
	if err != nil && !os.IsNotExist(err) {
		return nil, nil, err
	}
	table, err := tableOf(top)
	if err != nil {
		return nil, nil, err
	}
	want, err = t.make(has, table)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.file, err)
	}
	return has, want, err
}

func (t target) write(top string) error {
	has, want, err := t.contents(top)
	if err != nil || string(has) == string(want) {
		return err
	}
	return os.WriteFile(t.path(top), want, 0o644)
}
