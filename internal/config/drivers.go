package config

import (
	"errors"
	"fmt"
	"slices"
)

// ErrUnknownDriver: a statement names a driver that does not exist. No reader or
// device is served because of that statement.
var ErrUnknownDriver = errors.New("no driver has this name")

// errNotYet is the ErrUnknownDriver of a driver that C OpenCT had.
var errNotYet = fmt.Errorf("%w here; C OpenCT has one", ErrUnknownDriver)

// The drivers of C OpenCT 0.6.20 (src/ifd/init.c), and wbeiuu, whose source it has
// and does not compile.
var classicDrivers = []string{
	"acr30u", "b1", "cardman", "ccid", "cm4000", "cyberjack", "egate", "ePass3000", "etoken", "etoken64", "eutron", "gempc",
	"ikey2k", "ikey3k", "kaan", "pertosmart1030", "pertosmart1038", "phoenix", "rutoken", "smartboard", "smartmouse", "starkey",
	"towitoko", "wbeiuu",
}

// NotYet are the drivers that C OpenCT had and that are not among the given ones.
func NotYet(drivers []string) []string {
	return slices.DeleteFunc(slices.Clone(classicDrivers), func(name string) bool { return slices.Contains(drivers, name) })
}

// driver says whether there is a driver of that name, and what it might have
// been meant to be.
func (r *collector) driver(name string) error {
	switch {
	case r.drivers == nil || slices.Contains(r.drivers, name):
		return nil
	case slices.Contains(classicDrivers, name):
		return fmt.Errorf("driver %s: %w", show(name), errNotYet)
	}
	if near := nearest(name, r.drivers); near != "" {
		return fmt.Errorf("driver %s: %w; the nearest name is %s", show(name), ErrUnknownDriver, show(near))
	}
	return fmt.Errorf("driver %s: %w", show(name), ErrUnknownDriver)
}

// nearest is the name with the fewest edits to the given one, if those are less
// than half of it.
func nearest(name string, names []string) string {
	const longest = 64 // of a name that is worth comparing
	if len(name) > longest {
		return ""
	}
	best, least := "", (len(name)+1)/2
	for _, n := range names {
		if d := edits(name, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// edits is the Levenshtein distance: how many bytes must be changed, added or
// removed to make one text of the other.
func edits(a, b string) int {
	row := make([]int, len(b)+1) // the distances of a[:i] to each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
