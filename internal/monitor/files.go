package monitor

import (
	"context"
	"os"
	"sync"

	"openct/internal/status"
)

// files is who waits for changes of OpenCT's files, and for the end of handlers.
type files struct {
	news      chan struct{} // one element stands for any number of changes that nobody has looked at
	lost      chan error    // why a source of news has ended
	processes *processes
	work      sync.WaitGroup
}

func newFiles() *files {
	f := &files{news: make(chan struct{}, 1), lost: make(chan error, 2)}
	f.processes = &processes{news: f.tell, open: map[int]*process{}}
	return f
}

func (f *files) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

func (f *files) run(fn func()) {
	f.work.Add(1)
	go func() {
		defer f.work.Done()
		fn()
	}()
}

// watch waits for changes in a directory until ctx ends.
func (f *files) watch(ctx context.Context, dir string) error {
	changes, err := status.NewChanges(dir)
	if err != nil {
		return err
	}
	f.run(func() { <-ctx.Done(); changes.Close() })
	f.run(func() {
		for {
			if err := changes.Wait(); err != nil {
				f.lost <- err
				return
			}
			f.tell()
		}
	})
	return nil
}

// Follow calls show, and again whenever the readers of a directory may be others
// than before, and for each signal, until ctx ends or show fails.
func Follow(ctx context.Context, dir string, again <-chan os.Signal, show func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	f := newFiles()
	defer f.work.Wait()
	defer cancel()
	defer f.processes.close()
	if err := f.watch(ctx, dir); err != nil {
		return err
	}
	for {
		// Whose end is to be waited for.
		if _, err := look(dir, f.processes, exists); err != nil {
			return err
		}
		if err := show(); err != nil {
			return err
		}
		rest(ctx, pause)
		select {
		case <-ctx.Done():
			return nil
		case <-f.news:
		case <-again:
		case err := <-f.lost:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}
