package logging

import (
	"strings"
	"sync"
	"time"
)

const (
	quiet    = time.Minute // an entry is written at most once in this time
	maxTexts = 256         // different entries remembered
)

// repeats counts warnings and errors that say the same. Nothing runs in the
// background: what was held back is told when the entry comes again.
type repeats struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[string]*repeat
}

type repeat struct {
	written time.Time
	missed  int
}

func newRepeats(now func() time.Time) *repeats {
	return &repeats{now: now, seen: map[string]*repeat{}}
}

// count says whether to write an entry, and how many like it were not written
// since the last one.
func (r *repeats) count(e entry) (missed int, write bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, key := r.now(), e.key()
	if s := r.seen[key]; s != nil {
		if now.Sub(s.written) < quiet {
			s.missed++
			return 0, false
		}
		missed = s.missed
	}
	if len(r.seen) >= maxTexts { // a hostile device can vary its texts
		clear(r.seen)
	}
	r.seen[key] = &repeat{written: now}
	return missed, true
}

// key is the same for entries that say the same about the same reader.
func (e entry) key() string {
	var b strings.Builder
	b.WriteString(e.level.String() + "\x00" + e.text)
	for _, f := range e.fields {
		b.WriteString("\x00" + f.key + "=" + f.value)
	}
	return b.String()
}
