//go:build !linux

package store_test

import "errors"

func limitFiles(uint64) error { return errors.ErrUnsupported }

func mountSmall(string) (unmount func() error, err error) { return nil, errors.ErrUnsupported }
