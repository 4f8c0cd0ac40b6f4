package client

const maxBody = 16 << 20 // of an answer, in bytes
