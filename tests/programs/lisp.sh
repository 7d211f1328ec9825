# SBCL: a runtime that maps itself where it wants to be, reads and writes its heap through SIGSEGV, and compiles as it goes.
sbcl --noinform --no-userinit --no-sysinit --non-interactive --eval '
(progn
  (defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
  (print (compile (quote fib)))
  (print (fib 25))
  (print (loop repeat 200 sum (length (make-array 100000))))
  (gc :full t)
  (print (mapcar (function sb-thread:join-thread) (loop for i below 4 collect (let ((i i)) (sb-thread:make-thread (lambda () (* i i)))))))
  (print (handler-case (car 1) (type-error () "a type error")))
  (print (handler-case (labels ((deep (n) (+ 1 (deep (+ n 1))))) (deep 0)) (storage-condition () "too deep")))
  (terpri))' 2> errors
echo $?
grep -c 'Control stack guard page' errors
