package status

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What keeps Find from finding one reader.
var (
	ErrNoReader  = errors.New("no such reader")
	ErrAmbiguous = errors.New("more than one reader has that name")
)

// Alias is the name that openct.conf gives a reader; empty: none.
func (f *File) Alias(e Entry) string {
	d, err := f.ReadDetail(e)
	if err != nil {
		return "" // C OpenCT's handler, or one that is ending
	}
	return d.Alias
}

// ReaderNumber reads a reader's number, written as in C: 1, 0x1, 01.
func ReaderNumber(s string) (int, bool) {
	n, err := strconv.ParseInt(s, 0, 32)
	return int(n), err == nil
}

// Find is the living reader that a user names, by its number or by its alias. The
// error tells which readers there are.
func (f *File) Find(name string) (Entry, error) {
	all, err := f.Entries()
	if err != nil {
		return Entry{}, err
	}
	number, isNumber := ReaderNumber(name)
	var found []Entry
	var readers, numbers []string
	for _, e := range all {
		if !e.InUse() {
			continue
		}
		alias := f.Alias(e)
		if isNumber && e.Index == number || !isNumber && name != "" && alias == name {
			found = append(found, e)
			numbers = append(numbers, strconv.Itoa(e.Index))
		}
		if alias == "" {
			alias = "without a name"
		}
		readers = append(readers, fmt.Sprintf("%d (%s)", e.Index, alias))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Entry{}, fmt.Errorf("reader %q: %w: %s; name one by its number", name, ErrAmbiguous, strings.Join(numbers, ", "))
	case len(readers) == 0:
		return Entry{}, fmt.Errorf("reader %q: %w; no reader is served", name, ErrNoReader)
	}
	return Entry{}, fmt.Errorf("reader %q: %w; the readers are %s", name, ErrNoReader, strings.Join(readers, ", "))
}
