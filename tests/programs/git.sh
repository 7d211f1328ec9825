# git: a repository with history made, cloned, merged, packed and checked; then a copy of a real one, if GIT_REAL names it.
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000' GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat
git config --global init.defaultBranch main
git config --global safe.directory '*'
git init -q origin; cd origin
for i in $(seq 40); do
    mkdir -p d$((i % 7))
    seq $i $((i * 50)) > d$((i % 7))/f$i
    git add -A && git commit -qm "commit $i"
done
git rev-parse HEAD
git checkout -qb side HEAD~5; echo side > side; git add side; git commit -qm side
git checkout -q main; git merge -q --no-edit side; git rev-parse HEAD
git log --oneline | wc -l; git diff --stat HEAD~3 | tail -1; git status --short
echo changed >> d1/f1; git status --short; git stash -q; git status --short; git stash pop -q; git diff | wc -l; git checkout -q -- .
git blame d1/f15 | tail -1 | cut -c1-8; git grep -c 49 | head -3; git tag v1; git describe
cd ..
git clone -q origin copy && git -C copy rev-parse HEAD
git clone -q "file://$here/origin" packed && git -C packed log --oneline | wc -l
git clone -q --bare origin bare.git
cd copy; echo pushed > p; git add p; git commit -qm pushed; git push -q ../bare.git main:main; echo "push $?"
git gc -q --aggressive; git fsck --full --strict 2>&1; echo "fsck $?"; git count-objects -v | grep -E 'count|in-pack|packs|garbage'
git rebase -q HEAD~3 --exec true >/dev/null 2>&1; git rev-parse HEAD^{tree}; git worktree add -q ../tree HEAD~2; ls ../tree; git bundle create -q ../b main; git bundle verify -q ../b >/dev/null && echo bundle
git archive HEAD | tar t | sort | sha256sum
cd ..
if [ -n "${GIT_REAL-}" ]; then
    git clone -q --no-hardlinks "$GIT_REAL" real; echo "clone $?"
    cd real; git rev-parse HEAD; git status --short; git log --oneline | wc -l; git ls-files | sha256sum
    echo x >> README.md; git commit -qam change; git rev-parse HEAD
    git gc -q; git fsck --no-dangling 2>&1; echo "fsck $?"
fi
