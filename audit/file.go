package audit

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// File is a sink that follows its path: when the file there is moved away or
// removed (logrotate), the next line goes to a new one, without a signal. It
// is looked for once a second, before a write that begins a line.
type File struct {
	path string
	now  func() time.Time

	mu      sync.Mutex // guards what follows
	f       *os.File
	partial bool // the last write stopped inside a line
	looked  time.Time
}

// OpenFile opens or creates the file at path, mode 0600, for appending.
func OpenFile(path string) (*File, error) {
	s := &File{path: path, now: time.Now}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *File) open() error {
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	if s.f != nil {
		_ = s.f.Close()
	}
	s.f, s.looked = f, s.now()
	return nil
}

// Write implements io.Writer: p ends with a line's end, or is the rest of what
// the last call did not take.
func (s *File) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.partial && s.now().Sub(s.looked) >= time.Second {
		if err := s.look(); err != nil {
			return 0, err
		}
	}
	n, err := s.f.Write(p)
	if n > 0 {
		s.partial = p[n-1] != '\n'
	}
	if err != nil {
		return n, fmt.Errorf("write audit log: %w", err)
	}
	return n, nil
}

// look opens the path again when another file, or none, is there.
func (s *File) look() error {
	s.looked = s.now()
	there, err := os.Stat(s.path)
	if err == nil {
		ours, err := s.f.Stat()
		if err == nil && os.SameFile(there, ours) {
			return nil
		}
	}
	return s.open()
}

// Reopen opens the path again at once (on SIGHUP).
func (s *File) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partial {
		return nil // the rest of a line belongs behind its beginning; the next look finds the new file
	}
	return s.open()
}

// Close closes the file.
func (s *File) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.f.Close(); err != nil {
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}
