//! Tokens and keys that are not ours: keys by openssl, signatures by ring.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
    RsaPublicKeyComponents,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// The claims of a user for the next minutes.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 300})
}

/// Whoever issues tokens.
pub struct Issuer {
    pub algorithm: &'static str,
    key: Key,
    der: Vec<u8>,
}

enum Key {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Issuer {
    pub fn secret(secret: &str) -> Self {
        Self {
            algorithm: "HS256",
            key: Key::Secret(secret.as_bytes().to_vec()),
            der: Vec::new(),
        }
    }

    pub fn rsa() -> Self {
        let der = generate(&["-algorithm", "RSA"]);
        Self {
            algorithm: "RS256",
            key: Key::Rsa(RsaKeyPair::from_pkcs8(&der).unwrap()),
            der,
        }
    }

    pub fn p256() -> Self {
        let curve = "ec_paramgen_curve:P-256";
        let der = generate(&["-algorithm", "EC", "-pkeyopt", curve]);
        let scheme = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(scheme, &der, &SystemRandom::new());
        Self {
            algorithm: "ES256",
            key: Key::P256(key.unwrap()),
            der,
        }
    }

    pub fn ed25519() -> Self {
        let der = generate(&["-algorithm", "ED25519"]);
        Self {
            algorithm: "EdDSA",
            key: Key::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).unwrap()),
            der,
        }
    }

    /// The public key as PEM.
    pub fn pem(&self) -> String {
        let pem = openssl(&["pkey", "-inform", "DER", "-pubout"], &self.der);
        String::from_utf8(pem).unwrap()
    }

    /// The private key as PEM.
    pub fn private_pem(&self) -> String {
        let pem = openssl(&["pkey", "-inform", "DER"], &self.der);
        String::from_utf8(pem).unwrap()
    }

    /// The public key as one of a JWKS.
    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        match &self.key {
            Key::Secret(_) => panic!("a secret is not published"),
            Key::Rsa(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                let (n, e) = (text(&public.n), text(&public.e));
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e})
            }
            Key::P256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y})
            }
            Key::Ed25519(key) => {
                let x = text(key.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
            }
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"typ": "JWT", "alg": self.algorithm}), claims)
    }

    /// A token that names its key.
    pub fn token_by(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm, "kid": kid}), claims)
    }

    /// A token with this header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = |part: &Value| BASE64.encode(part.to_string());
        let message = format!("{}.{}", text(header), text(claims));
        format!("{message}.{}", BASE64.encode(self.sign(message.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let scheme = &signature::RSA_PKCS1_SHA256;
                key.sign(scheme, &random, message, &mut signature).unwrap();
                signature
            }
            Key::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// A new private key, as PKCS #8.
fn generate(arguments: &[&str]) -> Vec<u8> {
    let pem = openssl(&[&["genpkey"], arguments].concat(), &[]);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).expect("a key");
    key.secret_pkcs8_der().to_vec()
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// Serves a JWKS over HTTP; how often it was asked, and what it answers.
pub struct KeyServer {
    pub address: SocketAddr,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    pub fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let server = Self {
            address,
            answer: answer.clone(),
            asked: asked.clone(),
        };
        server.serve(keys);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(mut socket) = socket else { return };
                let mut request = [0; 4096];
                let _ = std::io::Read::read(&mut socket, &mut request);
                asked.fetch_add(1, Ordering::SeqCst);
                let (status, body) = match &*answer.lock().unwrap() {
                    Some(body) => ("200 OK", body.clone()),
                    None => ("500 Internal Server Error", String::new()),
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
                let _ = write!(socket, "{head}connection: close\r\n\r\n{body}");
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Answers with these keys from now on.
    pub fn serve(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = Some(json!({ "keys": keys }).to_string());
    }

    /// Answers with an error from now on.
    pub fn fail(&self) {
        *self.answer.lock().unwrap() = None;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
